// Everything of Fathom's C++ interface. config -> cache -> project -> compress -> index -> attend -> output.
#pragma once

#include "fathom/attend.h"
#include "fathom/cache.h"
#include "fathom/checkpoint.h"
#include "fathom/compress.h"
#include "fathom/config.h"
#include "fathom/core/memory.h"
#include "fathom/index.h"
#include "fathom/layer.h"
#include "fathom/linear.h"
#include "fathom/output.h"
#include "fathom/pool.h"
#include "fathom/project.h"
