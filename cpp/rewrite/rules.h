// The rules of a registry, compiled: the program tree of all patterns, and the families of
// collectives that their anchors belong to.
#pragma once

#include <vector>

#include "pattern/program.h"
#include "rewrite/collectives.h"
#include "rewrite/rowwise_rules.h"

namespace spfast {

struct Rules {
  ProgramSet programs;
  std::vector<CollectiveFamily> families;
  std::vector<AllReduceFamily> anchors;  // of the families, in every form
  RowRules rows;
};

}  // namespace spfast
