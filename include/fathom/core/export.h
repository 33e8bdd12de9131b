// Which symbols the shared library shows: those declared in public headers. Everything else is hidden.
#pragma once

#if defined(__GNUC__)
#define FATHOM_PUBLIC __attribute__((visibility("default")))
#else
#define FATHOM_PUBLIC
#endif
