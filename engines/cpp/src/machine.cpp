#include "machine.hpp"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "clouds/error.hpp"
#include "files.hpp"
#include "names.hpp"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace clouds {
namespace {

namespace fs = std::filesystem;

constexpr int kLeastDriver = 580;  // CUDA 13's, which TensorRT-RTX 1.7 and TensorRT 11 are made for

std::string joined(const std::vector<std::string>& words, const char* between) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : between) + word;
  return out;
}

#if !defined(_WIN32)
template <typename Function>
Function symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

void ask_driver(Machine& machine, const std::string& pci_bus_id) {
  void* nvml = dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (nvml == nullptr) return;  // and once open it stays: the driver keeps threads in it
  const auto init = symbol<int (*)()>(nvml, "nvmlInit_v2");
  const auto handle_of = symbol<int (*)(unsigned, void**)>(nvml, "nvmlDeviceGetHandleByIndex_v2");
  const auto handle_at = symbol<int (*)(const char*, void**)>(nvml, "nvmlDeviceGetHandleByPciBusId_v2");
  const auto capability = symbol<int (*)(void*, int*, int*)>(nvml, "nvmlDeviceGetCudaComputeCapability");
  const auto name_of = symbol<int (*)(void*, char*, unsigned)>(nvml, "nvmlDeviceGetName");
  const auto driver_of = symbol<int (*)(char*, unsigned)>(nvml, "nvmlSystemGetDriverVersion");
  if (!init || !handle_of || !handle_at || !capability || !name_of || !driver_of) return;
  void* handle = nullptr;
  int major = 0, minor = 0;
  char name[96] = "", driver[96] = "";
  const auto find = [&] {
    return pci_bus_id.empty() ? handle_of(0, &handle) : handle_at(pci_bus_id.c_str(), &handle);
  };
  const bool all = init() == 0 && find() == 0 && capability(handle, &major, &minor) == 0 &&
                   name_of(handle, name, sizeof name) == 0 && driver_of(driver, sizeof driver) == 0;
  if (!all) return;
  machine.sm = std::to_string(major) + std::to_string(minor);
  machine.gpu = name;
  machine.driver = driver;
}
#else
void ask_driver(Machine&, const std::string&) {}
#endif

}  // namespace

std::string without_post(const std::string& version) {
  const std::size_t at = version.find(".post");
  const bool number = at != std::string::npos && at + 5 < version.size() &&
                      version.find_first_not_of("0123456789", at + 5) == std::string::npos;
  return number ? version.substr(0, at) : version;
}

Machine Machine::here(std::map<std::string, std::string> versions, int index) {
  Machine machine;
  machine.versions = std::move(versions);
  std::string pci_bus_id;
#if defined(CLOUDS_TENSORRT) || defined(CLOUDS_TENSORRT_RTX)
  const CudaDevice device = cuda_device(index);
  pci_bus_id = device.pci_bus_id;
  machine.sm = device.sm;
  machine.gpu = device.name;
#else
  (void)index;
#endif
  ask_driver(machine, pci_bus_id);
  return machine;
}

void check_engine(const EngineFacts& facts, const fs::path& bundle, const Machine& machine) {
  const fs::path path = bundle / fs::u8path(facts.file);
  const std::string &name = facts.engine, &built = facts.version;
  std::vector<std::string> faults, fixes;
  const auto fault = [&](const std::string& what, const std::string& fix) {
    faults.push_back(what);
    fixes.push_back(fix);
  };
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    fault(path.string() + " is missing", "copy the bundle whole");
  } else if (sha256_of(path) != facts.sha256) {
    fault(path.string() + " was changed after it was built", "copy the bundle again");
  }
  const auto installed = machine.versions.find(name);
  if (installed == machine.versions.end()) {
    fault(name + " is not built into this library", "build it where " + name + " " + built + " is installed");
  } else if (without_post(installed->second) != without_post(built) && !facts.version_compatible) {
    fault("it was built by " + name + " " + built + ", and " + installed->second + " is installed",
          "install " + name + " " + built + ", or export it again");
  }
  if (machine.sm.empty()) {
    fault("there is no NVIDIA GPU, or no driver", "run the graph: onnxruntime and openvino need none");
  } else if (!facts.sms.empty() && std::find(facts.sms.begin(), facts.sms.end(), machine.sm) == facts.sms.end()) {
    fault("it was built for SM " + joined(facts.sms, ", ") + ", and this GPU (" + machine.gpu + ") has " + machine.sm,
          "export it again with --sm " + machine.sm);
  }
  if (!machine.driver.empty() && std::atoi(machine.driver.c_str()) < kLeastDriver) {
    fault("driver " + machine.driver + " is older than " + std::to_string(kLeastDriver), "update the NVIDIA driver");
  }
  if (!faults.empty()) {
    throw Error(path.filename().string() + " cannot run here: " + joined(faults, "; "), joined(fixes, "; "));
  }
}

const EngineFacts& find_engine(const std::vector<EngineFacts>& engines, const std::string& name,
                               const std::string& graph, const fs::path& bundle, const Machine& machine) {
  const EngineFacts* last = nullptr;
  for (const EngineFacts& engine : engines) {
    const std::string file = engine.file.substr(engine.file.rfind('/') + 1);
    if (engine.engine != name || (!graph.empty() && file.rfind(graph + "-", 0) != 0)) continue;
    last = &engine;
    const bool fits =
        engine.sms.empty() || std::find(engine.sms.begin(), engine.sms.end(), machine.sm) != engine.sms.end();
    if (fits) break;
  }
  if (last == nullptr) {
    const std::string sm = name == "tensorrt-rtx" ? " --sm " + (machine.sm.empty() ? "89" : machine.sm) : "";
    throw Error(bundle.string() + " has no engine for " + name + (graph.empty() ? "" : " of its " + graph),
                "export it again with --engine " + name + sm);
  }
  check_engine(*last, bundle, machine);
  return *last;
}

void use_engine(GraphFile& file, const std::vector<EngineFacts>& engines, const std::string& graph,
                const fs::path& bundle, const Options& options) {
  if (!runs_engines(options.backend)) return;
  const Machine machine = Machine::here(engine_versions(), std::max(cuda_index(options.device), 0));
  const EngineFacts& found = find_engine(engines, options.backend, graph, bundle, machine);
  file.path = inside(bundle, found.file, (bundle / "bundle.json").string());
  file.host_code = found.version_compatible;
}

}  // namespace clouds
