#include "rewrite/report.h"

#include <algorithm>

#include "rewrite/region_ends.h"

namespace spfast {
namespace {

// What an all_reduce that the row-wise view took is reported under.
constexpr const char* kRowwise = "rowwise";

const char* outcome_text(Outcome outcome) {
  switch (outcome) {
    case Outcome::kMatched:
      return "";
    case Outcome::kNoMatch:
      return "no rule matches what reads it";
    case Outcome::kNoWait:
      return "its result is not read by one wait_tensor alone";
    case Outcome::kClaimed:
      return "another all_reduce's site has the operations that read it";
    case Outcome::kUnknownSize:
      return "its size is not known, or it has no token dim: meta[\"val\"] of the all_reduce "
             "must be a tensor of two dims, or of more whose last one is a plain number";
    case Outcome::kKeywords:
      return "its tensor, its group or its reduce op is not given by position";
    case Outcome::kGroup:
      return "its group is computed in the graph: only the ranks of a constant one are known";
    case Outcome::kTooMany:
      return "its value is read in more ways than are tried: too many of its users are alike";
  }
  return "";
}

class Reporter {
 public:
  Reporter(const NodeTable& table, const Reported& what, const std::map<uint32_t, Reason>& ends)
      : table_(table), what_(what), ends_(ends), row_sites_(what.matches.anchors.size(), nullptr) {
    for (const Site& site : what.sites.sites) {
      if (site.match == kNone && site.scatters) row_sites_[site.anchor] = &site;
    }
  }

  [[nodiscard]] SiteReport report(uint32_t anchor) const {
    const AnchorReport& found = what_.matches.reports[anchor];
    SiteReport out;
    out.all_reduce = what_.matches.anchors[anchor].all_reduce;
    out.reason = outcome_text(found.outcome);
    if (found.outcome == Outcome::kMatched) report_match(found, out);
    if (!out.rewritten && row_sites_[anchor] != nullptr) {
      report_rows(*row_sites_[anchor], found.outcome, out);
    }
    if (!out.rewritten && found.outcome == Outcome::kNoMatch && found.failure.rule != kNone) {
      out.nearest = format_failure(table_, what_.rules.programs, found.failure);
    }
    if (out.rewritten) {
      const auto end = ends_.find(anchor);
      out.reason = end == ends_.end() ? std::string() : text_of(end->second);
    }
    return out;
  }

 private:
  void report_match(const AnchorReport& found, SiteReport& out) const {
    const Site& site = what_.sites.sites.at(found.match);
    out.rule = what_.rules.programs.rules()[what_.matches.matches[found.match].rule].name;
    out.rewritten = site.reason.empty();
    if (!out.rewritten) out.reason = text_of(site.reason);
  }

  void report_rows(const Site& site, Outcome outcome, SiteReport& out) const {
    if (site.reason.empty()) {
      out.rewritten = true;
      out.rule = kRowwise;
    } else if (outcome != Outcome::kMatched) {
      // Neither recogniser knows its reader. The report says so of both.
      const bool unknown = what_.patterns && outcome == Outcome::kNoMatch &&
                           (site.reason.kind == Reason::Kind::kNeedsAll ||
                            site.reason.kind == Reason::Kind::kNoGain);
      out.reason = (unknown ? out.reason + ", and " : "") + text_of(site.reason);
    }
  }

  [[nodiscard]] std::string text_of(const Reason& reason) const {
    return format_reason(table_, what_.groups, what_.sites.classes, reason);
  }

  const NodeTable& table_;
  const Reported& what_;
  const std::map<uint32_t, Reason>& ends_;
  std::vector<const Site*> row_sites_;  // by anchor, where the row-wise view had a look at it
};

}  // namespace

std::vector<SiteReport> report_sites(NodeTable& table, MetaSource& source, const Reported& what) {
  const size_t anchors = what.matches.anchors.size();
  const std::map<uint32_t, Reason> ends = region_ends(table, what.matches, what.sites);
  if (what.sites.rewritten() < anchors || !ends.empty()) source.read_names(table);
  const Reporter reporter(table, what, ends);
  std::vector<SiteReport> out;
  out.reserve(anchors);
  for (uint32_t i = 0; i < anchors; ++i) out.push_back(reporter.report(i));
  return out;
}

}  // namespace spfast
