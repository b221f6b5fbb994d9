// clouds_build BUNDLE: builds TensorRT engines of a bundle's graphs on the GPU that is to run them, proves the
// segmenter's by the bundle's own images, and adds them to the bundle.
#include "engine_builder.hpp"

#include <algorithm>
#include <sstream>

#include "arguments.hpp"
#include "backend.hpp"
#include "bundle.hpp"
#include "bundle_writer.hpp"
#include "files.hpp"
#include "machine.hpp"

namespace {

namespace fs = std::filesystem;

clouds::Range range(const arguments::Arguments& given, const std::string& name, const clouds::Range& otherwise) {
  if (!given.has(name)) return otherwise;
  clouds::Range out{};
  std::istringstream words(given.get(name));
  std::string word;
  std::size_t count = 0;
  for (; std::getline(words, word, ','); ++count) {
    if (count < 3) out[count] = static_cast<std::int64_t>(arguments::number(name, word));
  }
  if (count != 3 || out[0] < 1 || out[0] > out[1] || out[1] > out[2]) {
    throw clouds::Error(name + " `" + given.get(name) + "` is not a range",
                        "give the smallest, the most likely and the largest, in this order: 1,4,8");
  }
  return out;
}

struct Part {
  std::string name;
  fs::path graph;
  std::vector<clouds::TensorSpec> inputs;
};

void help() {
  std::printf(
      "clouds_build BUNDLE [options]\n"
      "  --device cuda:N           the GPU; default cuda:0\n"
      "  --batch A,B,C             smallest, most likely and largest number of images; default 1,1,8\n"
      "  --prompts A,B,C           the same of a SAM's prompts; default 1,16,64\n"
      "  --points A,B,C            the same of the points in a prompt; default 1,2,11\n"
      "  --workspace-mib N         most memory beside weights and tensors\n"
      "  --optimization-level N    0..5, TensorRT's builderOptimizationLevel\n"
      "  --timing-cache FILE       read and written, so that the next build is quick\n"
      "  --version-compatible      later versions of TensorRT may load it\n");
}

}  // namespace

int main(int argc, char** argv) {
  return arguments::guarded([&] {
    const std::set<std::string> with_value = {"--device",         "--batch",        "--prompts", "--points",
                                              "--workspace-mib", "--timing-cache", "--optimization-level"};
    const auto given = arguments::parse(argc, argv, with_value, {"--version-compatible", "--help"});
    if (given.has("--help") || given.rest.size() != 1) {
      help();
      return given.has("--help") ? 0 : 2;
    }
    const std::string device = given.get("--device", "cuda:0");
    clouds::EngineOptions options;
    options.device = clouds::cuda_index(device);
    if (options.device < 0) throw clouds::Error("there is no device `" + device + "`", "use cuda or cuda:N");
    const auto number = [&](const char* name) { return arguments::number(name, given.get(name)); };
    if (given.has("--workspace-mib")) options.workspace_mib = number("--workspace-mib");
    if (given.has("--optimization-level")) {
      options.optimization_level = static_cast<int>(std::min<std::size_t>(number("--optimization-level"), 5));
    }
    options.version_compatible = given.has("--version-compatible");
    options.timing_cache = given.get("--timing-cache");
    const clouds::Range batch = range(given, "--batch", {1, 1, 8});
    const clouds::Range prompts = range(given, "--prompts", {1, 16, 64});
    const clouds::Range points = range(given, "--points", {1, 2, 11});

    const fs::path bundle = fs::u8path(given.rest[0]);
    const bool sam = clouds::kind_of(bundle) == clouds::kSamKind;
    std::vector<Part> parts;
    clouds::Shape vocabulary;
    if (sam) {
      const clouds::SamBundle opened = clouds::open_sam_bundle(bundle, true);
      parts = {{"encoder", bundle / "encoder.onnx", opened.facts.encoder.inputs},
               {"decoder", bundle / "decoder.onnx", opened.facts.decoder.inputs}};
    } else {
      const clouds::SegmenterBundle opened = clouds::open_segmenter_bundle(bundle, true);
      parts = {{"segmenter", bundle / clouds::kGraph, opened.facts.inputs}};
      if (opened.manifest.files.count(clouds::kVocabulary) != 0) {
        vocabulary = clouds::read_vocabulary(bundle / clouds::kVocabulary).shape;
      }
    }
    const std::map<std::string, std::string> versions = clouds::engine_versions();
    const std::string engine = versions.begin()->first, version = versions.begin()->second;
    for (const Part& part : parts) {
      options.shapes = clouds::engine_shapes(part.inputs, part.name == "decoder" ? prompts : batch, points, vocabulary);
      std::printf("%s: building with %s %s ...\n", part.graph.string().c_str(), engine.c_str(), version.c_str());
      std::fflush(stdout);
      const clouds::BuiltEngine built = clouds::build_engine(part.graph, options);
      clouds::EngineEntry entry;
      entry.file = "engines/" + part.name + "-" + engine + "-" + version + "-sm" + built.sm + ".engine";
      entry.engine = engine;
      entry.version = version;
      entry.graph_sha256 = clouds::sha256_of(part.graph);
      entry.sm = built.sm;
      entry.gpu = built.gpu;
      entry.platform = clouds::own_platform();
      entry.batch = part.name == "decoder" ? prompts : batch;
      entry.workspace_mib = options.workspace_mib;
      entry.version_compatible = options.version_compatible;
      const auto prove = [&](const fs::path& made) {
        if (sam) return;
        clouds::Options run;
        run.backend = engine;
        run.device = device;
        const clouds::SelfTest result = clouds::Segmenter(made.u8string(), run).self_test();
        std::printf("%d images, %.4f %% of the labels are PyTorch's, at least %.4f %% have to be: %s\n", result.images,
                    100 * result.agreement, 100 * result.limit, result.passed() ? "ok" : "FAILED");
        if (!result.passed()) throw clouds::Error("the engine's labels are not those of the graph", "it was not added");
      };
      clouds::add_engine(bundle, sam ? clouds::kSamKind : clouds::kSegmenterKind, entry, built.plan, prove);
      std::printf("%s on %s: %zu bytes, %s\n", entry.file.c_str(), built.gpu.c_str(), built.plan.size(),
                  sam ? "built, not run" : "built and run");
    }
    return 0;
  });
}
