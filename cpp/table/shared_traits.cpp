#include "table/shared_traits.h"

namespace spfast {

SharedTraits::SharedTraits() : kept_(kept()), lock_(kept_.mutex) {}

SharedTraits::Kept& SharedTraits::kept() {
  // Never destroyed: a thread may still run while the process ends.
  static Kept& shared = *new Kept;
  return shared;
}

}  // namespace spfast
