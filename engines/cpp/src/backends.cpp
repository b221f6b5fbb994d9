#include <algorithm>

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
