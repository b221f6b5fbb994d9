#include "machine.hpp"

#include <algorithm>
#include <cstdlib>
#include <set>
#include <sstream>
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

using Numbers = std::vector<int>;

// Least driver by the CUDA major that a library is made for; of a Tegra: JetPack 6 and 7; and from where on every GPU is
// supported, and not data-centre cards only.
const std::map<int, std::string> kLeastDriver = {{11, "450.80.02"}, {12, "525.60.13"}, {13, "580"}};
const std::map<int, std::string> kLeastTegraDriver = {{12, "540"}, {13, "580"}};
const std::map<int, std::string> kWideDriver = {{12, "535"}};
const std::set<std::string> kDataCentre = {"A2",   "A10",  "A16", "A30",  "A40",  "A100", "A800", "B100",
                                           "B200", "GB200", "GH200", "H100", "H20", "H200", "H800", "L2",
                                           "L4",   "L20",  "L40", "L40S", "P100", "T4",   "V100"};

// The numbers a version begins with: `10.14.1.48.post1` is 10, 14, 1, 48.
Numbers numbers(const std::string& version) {
  Numbers out;
  for (std::size_t at = 0; at < version.size() && version[at] >= '0' && version[at] <= '9';) {
    const std::size_t end = std::min(version.find_first_not_of("0123456789", at), version.size());
    out.push_back(std::atoi(version.substr(at, std::min<std::size_t>(end - at, 9)).c_str()));
    at = end < version.size() && version[end] == '.' ? end + 1 : version.size();
  }
  return out;
}

bool is_data_centre(const std::string& gpu) {
  std::istringstream words(gpu);
  for (std::string word; words >> word;) {
    if (kDataCentre.count(word.substr(0, word.find('-'))) != 0) return true;
  }
  return false;
}

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

Machine Machine::here(std::map<std::string, std::string> versions, int index) {
  Machine machine;
  machine.versions = std::move(versions);
  std::string pci_bus_id;
#if defined(CLOUDS_TENSORRT) || defined(CLOUDS_TENSORRT_RTX)
  const CudaDevice device = cuda_device(index);
  pci_bus_id = device.pci_bus_id;
  machine.sm = device.sm;
  machine.gpu = device.name;
  machine.cuda_driver = device.driver;
  machine.asked = device.asked;
  for (const auto& [name, version] : machine.versions) machine.cuda[name] = device.runtime;
#else
  (void)index;
#endif
  ask_driver(machine, pci_bus_id);
  machine.platform = own_platform();
  std::error_code error;
  machine.tegra = fs::exists("/etc/nv_tegra_release", error);
  return machine;
}

std::string own_platform() {
#if defined(_WIN32)
  const std::string system = "windows-";
#else
  const std::string system = "linux-";
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
  return system + "aarch64";
#else
  return system + "x86_64";
#endif
}

namespace {

void judge_version(const EngineFacts& facts, const Machine& machine, std::vector<Finding>& faults) {
  const std::string &name = facts.engine, &built = facts.version;
  const auto installed = machine.versions.find(name);
  if (installed == machine.versions.end()) {
    faults.push_back({"installed", name + " is not built into this library",
                      "build it where " + name + " " + built + " is installed"});
    return;
  }
  const Numbers own = numbers(installed->second), wanted = numbers(built);
  const auto least = static_cast<std::ptrdiff_t>(std::min(own.size(), wanted.size()));  // JetPack leaves the build out
  const bool same = least >= 2 ? std::equal(own.begin(), own.begin() + least, wanted.begin()) : own == wanted;
  if (same || (facts.version_compatible && own > wanted)) return;
  faults.push_back({"version", "it was built by " + name + " " + built + ", and " + installed->second + " is installed",
                    "install " + name + " " + built + ", or export it again"});
}

void judge_gpu(const EngineFacts& facts, const Machine& machine, Verdict& out) {
  const std::string& sm = machine.sm;
  const std::string again = "build it here: clouds-deploy engine build BUNDLE --engine " + facts.engine;
  if (!facts.sms.empty()) {
    if (std::find(facts.sms.begin(), facts.sms.end(), sm) == facts.sms.end()) {
      out.faults.push_back({"sm",
                            "it was built for SM " + joined(facts.sms, ", ") + ", and this GPU (" + machine.gpu +
                                ") has " + sm,
                            "export it again with --sm " + sm});
    }
  } else if (facts.sm.empty()) {
    out.doubts.push_back({"origin", "it does not record the GPU that it was built on", again});
  } else if (facts.sm != sm) {
    const bool ampere = std::min(std::atoi(facts.sm.c_str()), std::atoi(sm.c_str())) >= 80;
    if (facts.hardware_compatible && ampere && !machine.tegra) return;
    out.faults.push_back({"sm",
                          "it was built on " + (facts.gpu.empty() ? "None" : facts.gpu) + " with SM " + facts.sm +
                              ", and this GPU (" + machine.gpu + ") has " + sm,
                          again});
  } else if (!facts.gpu.empty() && facts.gpu != machine.gpu) {
    out.doubts.push_back({"model",
                          "it was built on " + facts.gpu + " and tuned for it; this is " + machine.gpu +
                              " of the same SM " + sm,
                          again});
  }
}

void judge_driver(const EngineFacts& facts, const Machine& machine, Verdict& out) {
  const auto made_for = machine.cuda.find(facts.engine);
  const std::string cuda = made_for != machine.cuda.end() && !made_for->second.empty() ? made_for->second : facts.cuda;
  if (machine.sm.empty() && machine.asked) return;  // no GPU: said already
  if (numbers(cuda).empty() || (machine.cuda_driver.empty() && machine.driver.empty())) {
    out.doubts.push_back({"driver", "whether the driver is new enough could not be found out",
                          "compare `nvidia-smi` with the support matrix of TensorRT"});
    return;
  }
  const int major = numbers(cuda).front();
  const std::string cuda_major = std::to_string(major), &driver = machine.driver;
  const std::string update = machine.tegra ? "update JetPack" : "update the NVIDIA driver";
  if (!machine.cuda_driver.empty()) {
    if (numbers(machine.cuda_driver) < Numbers{major}) {
      out.faults.push_back({"driver",
                            (driver.empty() ? "the driver" : "driver " + driver) + " runs CUDA up to " +
                                machine.cuda_driver + ", and " + facts.engine + " needs CUDA " + cuda_major,
                            update});
    }
    return;
  }
  const auto& table = machine.tegra ? kLeastTegraDriver : kLeastDriver;
  const auto least = table.find(major), wide = kWideDriver.find(major);
  if (least != table.end() && numbers(driver) < numbers(least->second)) {
    out.faults.push_back({"driver",
                          "driver " + driver + " is older than " + least->second + ", which " + facts.engine +
                              " for CUDA " + cuda_major + " needs",
                          update});
  } else if (!machine.tegra && wide != kWideDriver.end() && numbers(driver) < numbers(wide->second) &&
             !is_data_centre(machine.gpu)) {
    out.doubts.push_back({"driver",
                          "driver " + driver + " runs CUDA " + cuda_major + " on data-centre cards; others need " +
                              wide->second,
                          update});
  }
}

}  // namespace

Verdict judge(const EngineFacts& facts, const Machine& machine) {
  Verdict out;
  judge_version(facts, machine, out.faults);
  if (!machine.sm.empty()) {
    judge_gpu(facts, machine, out);
  } else if (machine.asked) {
    out.faults.push_back({"gpu", "there is no NVIDIA GPU, or no driver",
                          "run the graph: onnxruntime and openvino need none"});
  } else {
    out.doubts.push_back({"gpu", "the GPU could not be asked about", "is the NVIDIA driver loaded?"});
  }
  if (facts.engine == "tensorrt" && !facts.platform.empty() && facts.platform != machine.platform) {
    out.faults.push_back({"platform", "it was built on " + facts.platform + ", and this is " + machine.platform,
                          "build it here: clouds-deploy engine build BUNDLE --engine tensorrt"});
  }
  judge_driver(facts, machine, out);
  return out;
}

std::vector<std::string> check_engine(const EngineFacts& facts, const fs::path& bundle, const Machine& machine) {
  const fs::path path = bundle / fs::u8path(facts.file);
  Verdict found = judge(facts, machine);
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    found.faults.insert(found.faults.begin(), {"file", path.string() + " is missing", "copy the bundle whole"});
  } else if (sha256_of(path) != facts.sha256) {
    found.faults.insert(found.faults.begin(),
                        {"file", path.string() + " was changed after it was built", "copy the bundle again"});
  }
  const std::string name = path.filename().string();
  std::vector<std::string> what, fixes, doubts;
  for (const Finding& fault : found.faults) what.push_back(fault.what), fixes.push_back(fault.fix);
  if (!what.empty()) throw Error(name + " cannot run here: " + joined(what, "; "), joined(fixes, "; "));
  for (const Finding& doubt : found.doubts) doubts.push_back(name + ": " + doubt.what + " (" + doubt.fix + ")");
  return doubts;
}

const EngineFacts& find_engine(const std::vector<EngineFacts>& engines, const std::string& name,
                               const std::string& graph, const fs::path& bundle, const Machine& machine) {
  const EngineFacts* last = nullptr;
  for (const EngineFacts& engine : engines) {
    const std::string file = engine.file.substr(engine.file.rfind('/') + 1);
    if (engine.engine != name || (!graph.empty() && file.rfind(graph + "-", 0) != 0)) continue;
    last = &engine;
    const bool fits =
        engine.sms.empty() ? engine.sm.empty() || engine.sm == machine.sm : std::find(engine.sms.begin(), engine.sms.end(), machine.sm) != engine.sms.end();
    if (fits) break;
  }
  if (last == nullptr) {
    const std::string sm = name == "tensorrt-rtx" ? " --sm " + (machine.sm.empty() ? "89" : machine.sm) : "";
    throw Error(bundle.string() + " has no engine for " + name + (graph.empty() ? "" : " of its " + graph),
                "export it again with --engine " + name + sm);
  }
  return *last;
}

void use_engine(GraphFile& file, const std::vector<EngineFacts>& engines, const std::string& graph,
                const fs::path& bundle, const Options& options) {
  if (!runs_engines(options.backend)) return;
  const Machine machine = Machine::here(engine_versions(), std::max(cuda_index(options.device), 0));
  const EngineFacts& found = find_engine(engines, options.backend, graph, bundle, machine);
  file.warnings = check_engine(found, bundle, machine);
  file.path = inside(bundle, found.file, (bundle / "bundle.json").string());
  file.host_code = found.version_compatible;
}

}  // namespace clouds
