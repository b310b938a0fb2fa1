// Any patterns over any table: compilation either complains or yields programs, the machine runs
// them, and what it finds is what the patterns say.
#include <cstdlib>

#include "base/check.h"
#include "decode.h"
#include "match/finder.h"

using namespace spfast;
using namespace spfast::testing;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes in(data, size);
  ProgramSet programs;
  for (uint32_t i = in.below(5); i-- > 0;) {
    const Pattern pattern = PatternFuzzer(in).run();
    try {
      programs.add(pattern);
    } catch (const UserError&) {
    }
  }
  if (in.flag()) {
    // The rules may clash with drawn ones in name only.
    for (const Pattern& known :
         {ir_first(), ir_middle(), functional_first(), functional_middle()}) {
      programs.add(known);
    }
  }
  const NodeTable table = TableFuzzer(in, 200).run();
  const auto families = anchor_families();
  const MatchResult result = find_matches(table, programs, families);
  require(result.reports.size() == result.anchors.size());
  std::vector<bool> claimed(table.size(), false);
  for (const Match& match : result.matches) {
    require(match.rule < programs.rules().size());
    require(match.parameters.size() == programs.rules()[match.rule].roles.size());
    require(match.operations[0] == result.anchors[match.anchor].reduced);
    for (size_t i = 1; i < match.operations.size(); ++i) {
      require(match.operations[i] < table.size());
      require(!claimed[match.operations[i]]);
    }
    for (const NodeId node : match.operations) claimed[node] = true;
  }
  for (const AnchorReport& report : result.reports) {
    require((report.match == kNone) == (report.outcome != Outcome::kMatched));
    (void)format_failure(table, programs, report.failure);
  }
  (void)programs.to_string();
  return 0;
}
