// The facts of this machine that an engine depends on, and whether a bundle's engine can run here.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "backend.hpp"
#include "documents.hpp"

namespace clouds {

// A version without the `.postN` that PyPI's wheels may have and the library itself does not know.
std::string without_post(const std::string& version);

struct Machine {
  std::map<std::string, std::string> versions;  // of every TensorRT library that this one can use
  std::string sm;                               // compute capability of the GPU, such as 89; empty without one
  std::string gpu;                              // its name
  std::string driver;                           // version of its driver; empty without one

  // Asks CUDA's runtime, where a TensorRT is built in, which card `cuda:index` is, and the driver's library for the rest.
  // A machine whose driver has no such library, as some Jetsons', is described by the runtime alone.
  static Machine here(std::map<std::string, std::string> versions, int index);
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
