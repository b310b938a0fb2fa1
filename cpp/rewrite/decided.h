// What is decided before sites are examined: by somebody outside, or by an earlier plan.
#pragma once

#include "rewrite/plan.h"
#include "rewrite/reason.h"

namespace spfast {

// A class that somebody outside refused, or had padded.
struct JudgedClass {
  Dim tokens;
  uint32_t group = 0;
  Verdict verdict;
};

// A site that has to stay, as its plan showed.
struct HeldSite {
  uint32_t anchor = 0;
  bool scatters = true;  // false: it was grown, and its class tells it
  Dim tokens;
  uint32_t group = 0;
  Reason reason;
};

}  // namespace spfast
