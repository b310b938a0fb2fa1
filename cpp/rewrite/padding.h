// Rows of zeros that fill tokens up to a multiple of the ranks, and their removal: nobody reads
// what is computed of them.
#pragma once

#include <map>

#include "rewrite/plan_builder.h"

namespace spfast {

class Padding {
 public:
  explicit Padding(PlanBuilder& builder) : builder_(builder) {}

  [[nodiscard]] bool needed(const Site& site) const { return class_of(site).padded; }
  // `value`, [tokens, features...], with rows up to the multiple; itself where none are needed.
  NodeRef fill(const Site& site, NodeRef value, NodeId before, NodeId like, size_t features);
  // The tokens among the rows that an all_gather yields.
  NodeRef cut(const Site& site, NodeRef rows, NodeId before, NodeId like, size_t features);
  // How many rows each rank has: once something was filled up, where the number is symbolic.
  [[nodiscard]] PlanArg local(const Site& site) const;

 private:
  struct Numbers {
    PlanArg tokens;
    PlanArg local;
    PlanArg missing;  // rows
  };
  [[nodiscard]] const TokenClass& class_of(const Site& site) const {
    return builder_.sites.classes[site.token_class];
  }
  // Made once for a class, of the first value that is filled up.
  const Numbers& numbers(const Site& site, NodeRef value, NodeId before);
  [[nodiscard]] Numbers known(const Site& site) const;
  [[nodiscard]] Numbers settled(const Site& site) const;
  Numbers reckon(const Site& site, NodeRef value, NodeId before);

  PlanBuilder& builder_;
  std::map<uint32_t, Numbers> numbers_;  // by token class
};

}  // namespace spfast
