// Compiled against the headers of TensorRT 10.3, 10.13 and 11.1 and never run: see tensorrt_backend.cpp.
#include "engine_builder.hpp"

#include <NvInfer.h>
#include <NvOnnxParser.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <memory>

#include "clouds/error.hpp"
#include "files.hpp"
#include "tensorrt_common.hpp"

namespace clouds {
namespace {

namespace fs = std::filesystem;

void require_made(bool made, const fs::path& graph, Log& log, const std::string& what) {
  if (!made) {
    throw Error("TensorRT cannot " + what + " of " + graph.string() + ": " + log.last(),
                "is there enough memory on the GPU, and does this TensorRT know the graph's operators?");
  }
}

std::string reasons(const nvonnxparser::IParser& parser, Log& log) {
  std::string out;
  for (int i = 0; i < parser.getNbErrors(); ++i) {
    const nvonnxparser::IParserError* error = parser.getError(i);
    out += (out.empty() ? "" : "; ") + std::string("node ") + std::to_string(error->node()) + ": " + error->desc();
  }
  return out.empty() ? log.last() : out;
}

}  // namespace

BuiltEngine build_engine(const fs::path& graph, const EngineOptions& options) {
  const OnDevice here(options.device);
  BuiltEngine out;
  cudaDeviceProp properties{};
  require(cudaGetDeviceProperties(&properties, options.device), "describe the device");
  out.sm = std::to_string(properties.major) + std::to_string(properties.minor);
  out.gpu = properties.name;

  Log log;
  const std::unique_ptr<nvinfer1::IBuilder> builder(nvinfer1::createInferBuilder(log));
  require_made(builder != nullptr, graph, log, "make a builder for the engine");
#if NV_TENSORRT_MAJOR < 11
  const auto typed = 1U << static_cast<unsigned>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#else
  const auto typed = 0U;  // all networks are
#endif
  const std::unique_ptr<nvinfer1::INetworkDefinition> network(builder->createNetworkV2(typed));
  require_made(network != nullptr, graph, log, "make the network");
  const std::unique_ptr<nvonnxparser::IParser> parser(nvonnxparser::createParser(*network, log));
  require_made(parser != nullptr, graph, log, "make a parser");
  if (!parser->parseFromFile(graph.string().c_str(), static_cast<int>(nvinfer1::ILogger::Severity::kWARNING))) {
    throw Error("TensorRT refuses " + graph.string() + ": " + reasons(*parser, log),
                "export it again for this TensorRT, or use onnxruntime");
  }
  const std::unique_ptr<nvinfer1::IBuilderConfig> config(builder->createBuilderConfig());
  require_made(config != nullptr, graph, log, "make the settings");
  config->clearFlag(nvinfer1::BuilderFlag::kTF32);
  if (options.version_compatible) config->setFlag(nvinfer1::BuilderFlag::kVERSION_COMPATIBLE);
  if (options.optimization_level >= 0) config->setBuilderOptimizationLevel(options.optimization_level);
  if (options.workspace_mib > 0) {
    config->setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, options.workspace_mib << 20);
  }
  nvinfer1::IOptimizationProfile* profile = builder->createOptimizationProfile();
  for (const auto& [name, shapes] : options.shapes) {
    using Of = nvinfer1::OptProfileSelector;
    const bool taken = profile->setDimensions(name.c_str(), Of::kMIN, dims_of(shapes[0])) &&
                       profile->setDimensions(name.c_str(), Of::kOPT, dims_of(shapes[1])) &&
                       profile->setDimensions(name.c_str(), Of::kMAX, dims_of(shapes[2]));
    require_made(taken, graph, log, "take the shapes of input `" + name + "`");
  }
  require_made(config->addOptimizationProfile(profile) >= 0, graph, log, "take the shapes");

  std::unique_ptr<nvinfer1::ITimingCache> timings;
  if (!options.timing_cache.empty()) {
    std::vector<std::uint8_t> known;
    if (fs::exists(options.timing_cache)) known = read_bytes(options.timing_cache);
    timings.reset(config->createTimingCache(known.data(), known.size()));
    require_made(timings != nullptr && config->setTimingCache(*timings, false), graph, log,
                 "use the timing cache " + options.timing_cache.string() + " for the engine");
  }
  const std::unique_ptr<nvinfer1::IHostMemory> plan(builder->buildSerializedNetwork(*network, *config));
  require_made(plan != nullptr && plan->size() > 0, graph, log, "build the engine");
  if (timings != nullptr) {
    const std::unique_ptr<nvinfer1::IHostMemory> measured(timings->serialize());
    if (measured != nullptr) write_file(options.timing_cache, measured->data(), measured->size());
  }
  const auto* bytes = static_cast<const std::uint8_t*>(plan->data());
  out.plan.assign(bytes, bytes + plan->size());
  return out;
}

}  // namespace clouds
