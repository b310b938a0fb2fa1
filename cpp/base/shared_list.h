// A list whose copies share their items until one of them is changed. For parts that many owners
// hold and hardly anybody changes, such as the forms of an operation in all patterns that have it.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

namespace spfast {

template <class T>
class SharedList {
 public:
  SharedList() = default;
  SharedList(std::initializer_list<T> items) : SharedList(std::vector<T>(items)) {}
  SharedList(std::vector<T> items) {
    if (!items.empty()) items_ = std::make_shared<std::vector<T>>(std::move(items));
  }

  [[nodiscard]] size_t size() const { return items_ ? items_->size() : 0; }
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] const T* begin() const { return items_ ? items_->data() : nullptr; }
  [[nodiscard]] const T* end() const { return begin() + size(); }
  [[nodiscard]] const T& front() const { return items_->front(); }
  [[nodiscard]] const T& operator[](size_t i) const { return (*items_)[i]; }

  [[nodiscard]] T& operator[](size_t i) { return own()[i]; }
  void push_back(T item) { own().push_back(std::move(item)); }
  void clear() { items_.reset(); }

  friend bool operator==(const SharedList& a, const SharedList& b) {
    if (a.items_ == b.items_) return true;
    return a.items_ && b.items_ && *a.items_ == *b.items_;
  }

 private:
  std::vector<T>& own() {
    if (!items_) {
      items_ = std::make_shared<std::vector<T>>();
    } else if (items_.use_count() > 1) {
      items_ = std::make_shared<std::vector<T>>(*items_);
    }
    return *items_;
  }

  std::shared_ptr<std::vector<T>> items_;  // null where there are none
};

}  // namespace spfast
