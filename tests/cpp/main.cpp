#include "harness.h"

int main(int argc, char** argv) { return spfast::testing::run_tests(argc, argv); }
