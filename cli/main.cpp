// Entry point of the program `fathom`; everything is in run_program so that tests can call it.
#include "cli/commands.h"

int main(int argc, char** argv) { return fathom::cli::run_program(argc, argv); }
