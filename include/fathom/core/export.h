// Which symbols the shared library shows: those declared in public headers. Everything else is hidden.
#pragma once

#if defined(__GNUC__)
#define FATHOM_PUBLIC __attribute__((visibility("default")))
#define FATHOM_HIDDEN __attribute__((visibility("hidden")))
#else
#define FATHOM_PUBLIC
#define FATHOM_HIDDEN
#endif
