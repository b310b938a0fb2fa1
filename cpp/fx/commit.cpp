#include "fx/commit.h"

#include <pybind11/stl.h>

#include <map>
#include <unordered_set>

#include "base/check.h"
#include "fx/graph_editor.h"
#include "fx/node_access.h"
#include "table/targets.h"

namespace spfast::fx {
namespace {

// "reduce_scatter_tensor" of "_c10d_functional.reduce_scatter_tensor.default": what FX itself would
// call such a node after tracing.
std::string base_name(TargetId target) {
  const std::string full = target_name(target);
  const size_t begin = full.find('.') + 1;
  return full.substr(begin, full.find('.', begin) - begin);
}

class Committer {
 public:
  Committer(py::handle graph, const EncodedGraph& encoded, const Plan& plan,
            const CommitValues& values, const TargetObjects& targets)
      : graph_(graph),
        encoded_(encoded),
        plan_(plan),
        values_(values),
        targets_(targets),
        access_(NodeAccess::instance()),
        journal_(py::module_::import("spfast.fxgraph.journal").attr("Journal")(graph)),
        entries_(journal_.attr("entries")),
        editor_(graph) {
    // A hook that a module has for new nodes must see them whole.
    const py::object module = py::getattr(graph, "owning_module", py::none());
    const bool watched = py::bool_(py::getattr(module, "_create_node_hooks", py::none()));
    const py::object node_type = py::module_::import("torch.fx").attr("Node");
    sets_operands_ = !watched && py::hasattr(node_type, set_operands_);
    created_.resize(plan.created.size());
    for (const Edit& edit : plan.edits) {
      if (edit.kind == Edit::Kind::kRewire) ++rewires_of_[edit.a];
    }
  }

  py::object run() {
    try {
      for (const Edit& edit : plan_.edits) apply(edit);
      rewire_wide();
      editor_.finish();
    } catch (...) {
      journal_.attr("undo")(py::cast(encoded_.nodes));
      throw;
    }
    return journal_;
  }

 private:
  void apply(const Edit& edit) {
    switch (edit.kind) {
      case Edit::Kind::kCreate:
        create(edit.a);
        return;
      case Edit::Kind::kRewire:
        rewire(edit);
        return;
      case Edit::Kind::kSetDim:
        set_dim(edit);
        return;
      case Edit::Kind::kResize:
        resize(edit);
        return;
      case Edit::Kind::kMove:
        move(edit);
        return;
      case Edit::Kind::kErase:
        rewire_wide();  // erasures come last, of nodes that nobody reads any more
        erase(edit.a);
        return;
    }
  }

  [[nodiscard]] py::handle node_at(NodeRef ref) const {
    if (ref < encoded_.nodes.size()) return encoded_.nodes[ref];
    const py::object& made = created_.at(ref - encoded_.nodes.size());
    SPFAST_CHECK(made);
    return made;
  }

  [[nodiscard]] py::object argument(const PlanArg& arg) {
    switch (arg.kind) {
      case PlanArg::Kind::kNode:
        note_users_of(arg.node);
        return py::reinterpret_borrow<py::object>(node_at(arg.node));
      case PlanArg::Kind::kInt:
        return py::int_(arg.value);
      case PlanArg::Kind::kDtype: {
        if (arg.node == kNone) return py::module_::import("torch").attr("uint8");
        return access_.read(node_at(arg.node), Field::kMeta)[val_].attr("dtype");
      }
      case PlanArg::Kind::kCopy: {
        const py::object args = access_.read(encoded_.nodes[arg.node], Field::kArgs);
        py::object copied = py::reinterpret_borrow<py::object>(
            PyTuple_GET_ITEM(args.ptr(), static_cast<Py_ssize_t>(arg.value)));
        if (access_.is_node(copied)) note_users(copied);
        return copied;
      }
      case PlanArg::Kind::kInts: {
        py::list items;
        for (const PlanArg& item : arg.items) items.append(argument(item));
        return items;
      }
      case PlanArg::Kind::kGiven:
        return values_.given[static_cast<size_t>(arg.value)];
      case PlanArg::Kind::kText:
        return text(static_cast<uint32_t>(arg.value));
    }
    return py::none();
  }

  void create(uint32_t index) {
    const Created& made = plan_.created[index];
    py::tuple args(made.args.size());
    for (size_t i = 0; i < made.args.size(); ++i) args[i] = argument(made.args[i]);
    py::dict kwargs;
    if (made.kwargs_of != kNone) {
      kwargs = py::dict(access_.read(encoded_.nodes[made.kwargs_of], Field::kKwargs));
    }
    for (const auto& [name, arg] : made.kwargs) set_item(kwargs, keyword(name), argument(arg));
    if (made.contiguous) {
      kwargs["memory_format"] = py::module_::import("torch").attr("contiguous_format");
    }
    const py::handle before = encoded_.nodes[made.before];
    const py::handle target = targets_.at(made.target);
    const py::str base = name_for(made.target);
    // Operands that come with a new node are searched for raw symbols, which ours never hold, in
    // more time than all else takes.
    py::object node = sets_operands_ ? editor_.create_call(target, base, before, args, kwargs)
                                     : editor_.create_whole(target, base, before, args, kwargs);
    entries_.append(py::make_tuple(create_, node));
    const py::object origin = access_.read(encoded_.nodes[made.origin], Field::kMeta);
    const py::dict meta = stolen(PyDict_Copy(origin.ptr()));
    drop_value(meta);
    set_item(meta, val_, values_.created[index]);
    const py::object own = access_.read(node, Field::kMeta);
    if (py::len(own) == 0) {
      editor_.set_meta(node, meta);
    } else if (PyDict_Update(own.ptr(), meta.ptr()) != 0) {  // a hook has written to it
      throw py::error_already_set();
    }
    created_[index] = std::move(node);
  }

  // Where a node came from holds for what takes its place; what its value was does not.
  void drop_value(const py::dict& meta) const {
    for (const py::str* key : {&val_, &tensor_meta_, &eager_, &bindings_}) {
      const int found = PyDict_Contains(meta.ptr(), key->ptr());
      if (found < 0 || (found > 0 && PyDict_DelItem(meta.ptr(), key->ptr()) != 0)) {
        throw py::error_already_set();
      }
    }
  }

  void rewire(const Edit& edit) {
    if (rewires_of_.at(edit.a) > kFew) {
      wide_[edit.a].emplace_back(edit.b, edit.c);
      return;
    }
    const py::handle user = node_at(edit.a);
    const py::handle old = node_at(edit.b);
    const py::handle now = node_at(edit.c);
    note_operands(edit.a);
    note_users_of(edit.b);
    note_users_of(edit.c);
    editor_.replace_input(user, old, now);
  }

  // FX rewires one operand in the time that it takes to look at all of them. A node that changes
  // many, like the output of a graph, changes them at once.
  void rewire_wide() {
    for (const auto& [id, pairs] : wide_) {
      const py::handle user = node_at(id);
      note_operands(id);
      py::dict mapping;
      for (const auto& [old, now] : pairs) {
        note_users_of(old);
        note_users_of(now);
        set_item(mapping, node_at(old), node_at(now));
      }
      py::module_::import("spfast.fxgraph.rewiring").attr("rewire_operands")(user, mapping);
    }
    wide_.clear();
  }

  void set_dim(const Edit& edit) {
    const py::handle node = node_at(edit.a);
    note_operands(edit.a);
    const py::object args = access_.read(node, Field::kArgs);
    const py::handle old = PyTuple_GET_ITEM(args.ptr(), static_cast<Py_ssize_t>(edit.b));
    const auto counted = [&](py::handle dim) {
      if (edit.c == kNone) return int64_t{-1};
      const auto at = dim.cast<int64_t>();
      return at < 0 ? at : at - static_cast<int64_t>(edit.c);
    };
    if (PyList_Check(old.ptr()) != 0 || PyTuple_Check(old.ptr()) != 0) {
      py::list dims;
      for (const py::handle dim : old) dims.append(counted(dim));
      node.attr("update_arg")(edit.b, dims);
    } else {
      node.attr("update_arg")(edit.b, counted(old));
    }
  }

  void resize(const Edit& edit) {
    const py::object meta = access_.read(node_at(edit.a), Field::kMeta);
    entries_.append(
        py::make_tuple(meta_, meta, py::reinterpret_steal<py::dict>(PyDict_Copy(meta.ptr()))));
    set_item(meta, val_, values_.resized[edit.b]);
    const py::handle described = PyList_GET_ITEM(values_.described.ptr(), edit.b);
    if (!described.is_none()) set_item(meta, tensor_meta_, described);
  }

  void move(const Edit& edit) {
    const py::handle node = node_at(edit.a);
    entries_.append(py::make_tuple(move_, node, access_.read(node, Field::kPrev),
                                   access_.read(node, Field::kNext), node.attr("_sort_key")));
    node_at(edit.b).attr("prepend")(node);
  }

  void erase(NodeId id) {
    const py::handle node = encoded_.nodes[id];
    note_operands(id);
    // The order in which FX finds the nodes of one operator is part of a graph, too.
    if (noted_tables_.insert(encoded_.table.target(id)).second) {
      journal_.attr("note_order")(node);
    }
    // An erasure that fails half way is undone as well: the journal looks at what happened.
    entries_.append(py::make_tuple(erase_, node, access_.read(node, Field::kPrev),
                                   access_.read(node, Field::kNext), node.attr("_sort_key")));
    editor_.erase(node);
  }

  // What a node reads, and the users of all that: FX takes a node out of the users of every operand
  // and adds it again, whichever is replaced.
  void note_operands(NodeId id) {
    const py::handle node = node_at(id);
    if (!noted_operands_.insert(node.ptr()).second) return;
    for (const Argument operand : encoded_.table.operands(id)) {
      if (operand.is_node()) note_users(encoded_.nodes[operand.payload]);
    }
    entries_.append(py::make_tuple(operands_, node, access_.read(node, Field::kArgs),
                                   access_.read(node, Field::kKwargs)));
  }

  // A node that the plan creates goes when the plan is undone, and its users with it.
  void note_users_of(NodeRef ref) {
    if (ref < encoded_.nodes.size()) note_users(encoded_.nodes[ref]);
  }

  // The order of users is part of a graph too.
  void note_users(py::handle node) {
    if (!noted_users_.insert(node.ptr()).second) return;
    const py::object users = access_.read(node, Field::kUsers);
    entries_.append(
        py::make_tuple(users_, users, py::reinterpret_steal<py::dict>(PyDict_Copy(users.ptr()))));
  }

  py::str keyword(const std::string& name) {
    const auto known = keywords_.find(name);
    if (known != keywords_.end()) return known->second;
    return keywords_.emplace(name, py::str(name)).first->second;
  }

  py::str text(uint32_t id) {
    const auto known = texts_.find(id);
    if (known != texts_.end()) return known->second;
    return texts_.emplace(id, py::str(encoded_.table.string(id))).first->second;
  }

  py::str name_for(TargetId target) {
    const auto known = bases_.find(target);
    if (known != bases_.end()) return known->second;
    return bases_.emplace(target, py::str(base_name(target))).first->second;
  }

  static void set_item(py::handle dict, py::handle key, py::handle value) {
    if (PyDict_SetItem(dict.ptr(), key.ptr(), value.ptr()) != 0) throw py::error_already_set();
  }

  py::handle graph_;
  const EncodedGraph& encoded_;
  const Plan& plan_;
  const CommitValues& values_;
  const TargetObjects& targets_;
  const NodeAccess& access_;
  py::object journal_;
  py::list entries_;
  GraphEditor editor_;
  std::vector<py::object> created_;
  static constexpr uint32_t kFew = 8;
  std::unordered_map<NodeId, uint32_t> rewires_of_;
  std::map<NodeId, std::vector<std::pair<NodeId, NodeRef>>> wide_;  // not made yet, by user
  std::unordered_set<PyObject*> noted_operands_;
  std::unordered_set<PyObject*> noted_users_;
  std::unordered_set<TargetId> noted_tables_;
  std::unordered_map<TargetId, py::str> bases_;
  std::unordered_map<uint32_t, py::str> texts_;
  std::unordered_map<std::string, py::str> keywords_;
  bool sets_operands_ = false;  // after a node is created, not while
  py::str set_operands_ = interned("_update_args_kwargs");
  py::str val_ = interned("val");
  py::str tensor_meta_ = interned("tensor_meta");
  py::str eager_ = interned("eager_input_vals");
  py::str bindings_ = interned("unbacked_bindings");
  py::str create_ = interned("create");
  py::str erase_ = interned("erase");
  py::str move_ = interned("move");
  py::str operands_ = interned("operands");
  py::str users_ = interned("users");
  py::str meta_ = interned("meta");
};

}  // namespace

TargetObjects find_targets(const Plan& plan) {
  TargetObjects targets;
  const py::object resolve = py::module_::import("spfast.fxgraph.targets").attr("resolve");
  for (const Created& made : plan.created) {
    if (!targets.contains(made.target)) targets[made.target] = resolve(target_name(made.target));
  }
  return targets;
}

py::object commit(py::handle graph, const EncodedGraph& encoded, const Plan& plan,
                  const CommitValues& values, const TargetObjects& targets) {
  return Committer(graph, encoded, plan, values, targets).run();
}

}  // namespace spfast::fx
