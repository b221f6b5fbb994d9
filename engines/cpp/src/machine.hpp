// The facts of this machine that an engine depends on, and whether a bundle's engine can run here.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "backend.hpp"
#include "documents.hpp"

namespace clouds {

struct Machine {
  std::map<std::string, std::string> versions;  // of every TensorRT library that this one can use
  std::string sm;                               // compute capability of the GPU, such as 89; empty without one
  std::string gpu;                              // its name
  std::string driver;                           // version of its driver; empty without one

  // Asks the NVIDIA driver's library, where there is one; needs no CUDA.
  static Machine here(std::map<std::string, std::string> versions);
};

// The bundle's engine of a name, checked: of one of its graphs, such as `encoder`, or empty for a bundle of one graph.
// Throws Error naming all faults, each with its fix.
const EngineFacts& find_engine(const std::vector<EngineFacts>& engines, const std::string& name,
                               const std::string& graph, const std::filesystem::path& bundle, const Machine& machine);
// Where the backend runs engines, makes the graph's file the engine of it that fits this machine.
void use_engine(GraphFile& file, const std::vector<EngineFacts>& engines, const std::string& graph,
                const std::filesystem::path& bundle, const Options& options);

void check_engine(const EngineFacts& facts, const std::filesystem::path& bundle, const Machine& machine);

}  // namespace clouds
