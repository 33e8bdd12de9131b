// The GPU of a test, or the reason why the test is skipped.
#pragma once

#include <gtest/gtest.h>

#include "fathom/core/device.h"

/// Declares `name`, the first GPU, or skips the test with the reason.
#define FATHOM_NEEDS_CUDA(name)                                                   \
  const auto name##_or = ::fathom::Device::cuda();                                \
  if (!name##_or.ok()) GTEST_SKIP() << name##_or.status().text();                 \
  const ::fathom::Device name = name##_or.value()
