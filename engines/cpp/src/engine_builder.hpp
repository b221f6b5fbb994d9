// Engines built from a bundle's graphs on the machine that is to run them, with TensorRT's own libraries alone.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tensor.hpp"

namespace clouds {

using Range = std::array<std::int64_t, 3>;  // smallest, most likely, largest

struct EngineOptions {
  int device = 0;                                 // cuda:N
  std::map<std::string, std::array<Shape, 3>> shapes;  // by input: smallest, most likely and largest
  std::size_t workspace_mib = 0;                  // most memory beside weights and tensors; 0 sets no limit
  int optimization_level = -1;                    // 0..5; -1 leaves it to TensorRT
  bool version_compatible = false;                // whether later versions may load it
  std::filesystem::path timing_cache;             // read and written where it is given
};

struct BuiltEngine {
  std::vector<std::uint8_t> plan;
  std::string sm;   // compute capability of the GPU that it was built on, such as 87
  std::string gpu;  // its name
};

// Builds strongly typed, without TF32: the engine computes in the types that the graph is written in. Throws Error with
// what TensorRT's parser or builder says.
BuiltEngine build_engine(const std::filesystem::path& graph, const EngineOptions& options);

// The shapes of a graph's inputs between which its engine works. `batch`: of the first axis; `points`: of a SAM's
// decoder; `vocabulary`: the shape (classes, synonyms, numbers) that a text head's vocabulary has, kept as it is.
std::map<std::string, std::array<Shape, 3>> engine_shapes(const std::vector<TensorSpec>& inputs, const Range& batch,
                                                          const Range& points, const Shape& vocabulary);

}  // namespace clouds
