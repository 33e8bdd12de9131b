# FATHOM_SANITIZE=address,undefined or thread: every target of this build runs under those sanitizers.
if(FATHOM_SANITIZE)
  add_compile_options(-fsanitize=${FATHOM_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${FATHOM_SANITIZE})
  if(FATHOM_SANITIZE MATCHES thread)
    # The system's oneTBB is not instrumented, so ThreadSanitizer cannot see that it orders our tasks.
    add_compile_definitions(FATHOM_PLAIN_THREADS)
  endif()
endif()
