#include <algorithm>
#include <cstdlib>

#include "backend.hpp"
#include "clouds/error.hpp"

namespace clouds {
namespace {

const std::vector<std::string> kKnown = {"openvino", "onnxruntime", "tensorrt", "tensorrt-rtx"};

std::string quoted(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "`" : ", `") + word + "`";
  return out;
}

std::string flag(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c == '-' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c); });
  return "-DCLOUDS_" + name + "=ON";
}

}  // namespace

std::vector<std::string> backends() {
  std::vector<std::string> out;
#if defined(CLOUDS_OPENVINO)
  out.emplace_back("openvino");
#endif
#if defined(CLOUDS_ONNXRUNTIME)
  out.emplace_back("onnxruntime");
#endif
#if defined(CLOUDS_TENSORRT)
  out.emplace_back("tensorrt");
#endif
#if defined(CLOUDS_TENSORRT_RTX)
  out.emplace_back("tensorrt-rtx");
#endif
  return out;
}

namespace {

std::string chosen_backend(const Options& options) {
  const std::vector<std::string> built = backends();
  if (options.backend.empty()) {
    if (built.empty()) throw Error("this build of clouds has no backend", "configure it with " + flag("openvino"));
    return built.front();
  }
  if (std::find(kKnown.begin(), kKnown.end(), options.backend) == kKnown.end()) {
    throw Error("there is no backend `" + options.backend + "`", "known: " + quoted(kKnown));
  }
  return options.backend;  // whether it is built in is asked when the graph is opened: a missing engine is told first
}

constexpr int kMostThreads = 1024;

}  // namespace

Options checked(const Options& options) {
  Options out = options;
  if (out.precision == "f32") out.precision = "fp32";  // its name of before
  if (out.precision != "fp32" && out.precision != "bf16") {
    throw Error("there is no precision `" + options.precision + "`", "known: `bf16`, `fp32`");
  }
  const std::string most = std::to_string(kMostThreads);
  if (out.threads < 0 || out.threads > kMostThreads) {
    throw Error("threads " + std::to_string(out.threads) + " are not in 0.." + most, "0 leaves it to the backend");
  }
  if (out.workers > static_cast<std::size_t>(kMostThreads)) {
    throw Error(std::to_string(out.workers) + " workers are too many", "give at most " + most);
  }
  if (out.batch < 0) throw Error("a batch of " + std::to_string(out.batch) + " is none", "give 0 or more");
  out.backend = chosen_backend(out);
  return out;
}

int cuda_index(const std::string& device) {
  if (device == "cuda") return 0;
  if (device.rfind("cuda:", 0) != 0 || device.size() > 5 + 4) return -1;
  const std::string digits = device.substr(5);
  const bool number = !digits.empty() && digits.find_first_not_of("0123456789") == std::string::npos;
  return number ? std::atoi(digits.c_str()) : -1;
}

void check_shape(const TensorSpec& spec, const Shape& own) {
  bool same = spec.shape.size() == own.size();
  for (std::size_t i = 0; same && i < own.size(); ++i) {
    same = own[i] < 0 || spec.shape[i] < 0 || spec.shape[i] == own[i];
  }
  if (!same) throw Error("`" + spec.name + "` is of another shape in the graph than in bundle.json", "export the run again");
}

bool runs_engines(const std::string& backend) { return backend.rfind("tensorrt", 0) == 0; }

std::map<std::string, std::string> engine_versions() {
  std::map<std::string, std::string> out;
#if defined(CLOUDS_TENSORRT)
  out["tensorrt"] = tensorrt_version();
#endif
#if defined(CLOUDS_TENSORRT_RTX)
  out["tensorrt-rtx"] = tensorrt_version();
#endif
  return out;
}

std::unique_ptr<Graph> open_graph(const std::string& backend, const GraphFile& file, const Options& options) {
#if defined(CLOUDS_OPENVINO)
  if (backend == "openvino") return open_openvino(file, options);
#endif
#if defined(CLOUDS_ONNXRUNTIME)
  if (backend == "onnxruntime") return open_onnxruntime(file, options);
#endif
#if defined(CLOUDS_TENSORRT) || defined(CLOUDS_TENSORRT_RTX)
  if (runs_engines(backend)) return open_tensorrt(file, options);
#endif
  (void)file, (void)options;
  const std::vector<std::string> built = backends();
  throw Error("this build of clouds has no backend `" + backend + "`",
              "configure it with " + flag(backend) + (built.empty() ? "" : ", or use " + quoted(built)));
}

std::string first_line(const std::string& text) {
  const std::size_t from = text.find_first_not_of("\r\n");
  return from == std::string::npos ? text : text.substr(from, text.find_first_of("\r\n", from) - from);
}

}  // namespace clouds
