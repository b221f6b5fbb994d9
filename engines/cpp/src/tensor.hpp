// Inputs and outputs of a graph.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace clouds {

using Shape = std::vector<std::int64_t>;

// One input or output of a graph, as bundle.json names it: numpy's name of the type; -1 where a size is free.
struct TensorSpec {
  std::string name;
  std::string dtype;
  Shape shape;
};

inline std::int64_t elements(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

}  // namespace clouds
