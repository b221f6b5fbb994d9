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
  bool asked = true;                            // whether the driver or CUDA's runtime could be asked at all
  std::map<std::string, std::string> cuda = {};  // CUDA version that an installed engine is made for, by its name
  std::string cuda_driver = {};                 // newest CUDA version that the driver runs, such as 12.6
  std::string platform = "linux-x86_64";        // operating system and processor
  bool tegra = false;                           // a Jetson or another Tegra, whose drivers are numbered apart

  // Asks CUDA's runtime, where a TensorRT is built in, which card `cuda:index` is, and the driver's library for the rest.
  // A machine whose driver has no such library, as some Jetsons', is described by the runtime alone.
  static Machine here(std::map<std::string, std::string> versions, int index);
};

// The bundle's engine of a name that fits the GPU best: of one of its graphs, such as `encoder`, or of the only one where
// `graph` is empty. Throws Error where there is none.
const EngineFacts& find_engine(const std::vector<EngineFacts>& engines, const std::string& name,
                               const std::string& graph, const std::filesystem::path& bundle, const Machine& machine);
// Where the backend runs engines, makes the graph's file the engine of it that fits this machine. Throws Error naming all
// faults, each with its fix.
void use_engine(GraphFile& file, const std::vector<EngineFacts>& engines, const std::string& graph,
                const std::filesystem::path& bundle, const Options& options);

// Gives what makes it doubtful that the engine runs here: it is loaded all the same, TensorRT has the last word.
std::vector<std::string> check_engine(const EngineFacts& facts, const std::filesystem::path& bundle,
                                      const Machine& machine);

// A fault of an engine on a machine, or a doubt; the code is the same in Python.
struct Finding {
  std::string code, what, fix;
};
struct Verdict {
  std::vector<Finding> faults, doubts;
};

// What keeps an engine from running on a machine, and what makes that doubtful. The rules, their sources and the
// situations that both languages are held to: clouds_deploy.backends.tensorrt.preflight.
Verdict judge(const EngineFacts& facts, const Machine& machine);

std::string own_platform();  // as Machine::platform

}  // namespace clouds
