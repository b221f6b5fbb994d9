// Insides of the library for tests in Python, which compare them with the Python they were ported from.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "bundle.hpp"
#include "bundle_writer.hpp"
#include "clouds/error.hpp"
#include "clouds/segmenter.hpp"
#include "engine_builder.hpp"
#include "letterbox.hpp"
#include "machine.hpp"
#include "npz.hpp"
#include "onnx_model.hpp"
#ifdef CLOUDS_OPENVINO
#include "openvino_attention.hpp"
#endif
#include "resize.hpp"
#include "sha256.hpp"

#define EXPOSED extern "C" __attribute__((visibility("default")))

namespace {

std::string said;

// Runs it; gives null, or "message\nhint" of the error.
template <typename Call>
const char* told(Call call) {
  try {
    call();
    return nullptr;
  } catch (const clouds::Error& error) {
    said = error.message() + "\n" + error.hint();
    return said.c_str();
  }
}

}  // namespace

EXPOSED void bilinear(const std::uint8_t* in, int height, int width, int channels, std::uint8_t* out, int out_height,
                      int out_width) {
  clouds::Resizer resizer;
  resizer.bilinear({in, height, width, std::ptrdiff_t{width} * channels},
                   {out, out_height, out_width, std::ptrdiff_t{out_width} * channels}, channels);
}

EXPOSED void nearest(const std::uint8_t* in, int height, int width, std::uint8_t* out, int out_height, int out_width) {
  clouds::Resizer resizer;
  resizer.nearest({in, height, width, width}, {out, out_height, out_width, out_width});
}

EXPOSED void fit(const std::uint8_t* in, int height, int width, const std::uint8_t* color, std::uint8_t* out,
                 int out_height, int out_width, int* inner) {
  clouds::Resizer resizer;
  std::vector<std::uint8_t> packed;
  const clouds::Letterbox box = clouds::letterbox_of(height, width, out_height, out_width);
  clouds::fit({in, height, width}, box, out_height, out_width, {color[0], color[1], color[2]}, out, resizer, packed);
  inner[0] = box.inner_height, inner[1] = box.inner_width;
}

EXPOSED void restore(const std::uint8_t* map, int map_height, int map_width, std::uint8_t* out, int height, int width) {
  clouds::Resizer resizer;
  clouds::restore(map, map_width, clouds::letterbox_of(height, width, map_height, map_width), {out, height, width},
                  resizer);
}

EXPOSED void sha256(const char* bytes, std::size_t size, std::size_t step, char* out) {
  clouds::Sha256 digest;
  for (std::size_t at = 0; at < size; at += step) digest.update(bytes + at, std::min(step, size - at));
  std::strcpy(out, digest.hex().c_str());
}

EXPOSED const char* check_directory(const char* path, const char* kind) {
  return told([&] { clouds::check_directory(path, kind, true); });
}

EXPOSED const char* open_segmenter_bundle(const char* path) {
  return told([&] { clouds::open_segmenter_bundle(path, true); });
}

EXPOSED const char* read_vocabulary(const char* path) {
  return told([&] { clouds::read_vocabulary(path); });
}

EXPOSED const char* check_weights(const char* path, const char* listed) {
  std::istringstream words(listed);
  std::set<std::string> names;
  for (std::string word; words >> word;) names.insert(word);
  return told([&] { clouds::check_graph(std::filesystem::path(path), names); });
}

// Goes through a door of a bundle: `open`, `reference`, `vocabulary` or `session`, which is opened by its graph.
EXPOSED const char* go_through(const char* path, const char* door) {
  const std::string wanted = door;
  return told([&] {
    const clouds::SegmenterBundle bundle = clouds::open_segmenter_bundle(path, true);
    if (wanted == "reference") clouds::read_reference(bundle);
    if (wanted == "vocabulary") clouds::read_vocabulary(bundle.path / clouds::kVocabulary);
    if (wanted == "session") clouds::Segmenter(path, {}).self_test();
  });
}

EXPOSED const char* open_sam_bundle(const char* path) {
  return told([&] { clouds::open_sam_bundle(path, true); });
}

// The codes of faults and of doubts about a situation of tests/backends/engine_situations.json: "sm driver|model".
EXPOSED const char* judge(const char* situation) {
  const nlohmann::json given = nlohmann::json::parse(situation);
  const nlohmann::json &engine = given["engine"], &where = given["machine"];
  const auto text = [](const nlohmann::json& value, const char* name) {
    return value.contains(name) && value[name].is_string() ? value[name].get<std::string>() : std::string();
  };
  const nlohmann::json built = engine.value("built_on", nlohmann::json::object());
  clouds::EngineFacts facts;
  facts.engine = text(engine, "engine"), facts.version = text(engine, "version");
  if (engine.contains("sms")) facts.sms = engine["sms"].get<std::vector<std::string>>();
  facts.version_compatible = engine.value("version_compatible", false);
  facts.hardware_compatible = engine.value("hardware_compatible", false);
  facts.gpu = text(built, "gpu"), facts.sm = text(built, "sm");
  facts.cuda = text(built, "cuda"), facts.platform = text(built, "platform");
  clouds::Machine machine;
  machine.versions = where["versions"].get<std::map<std::string, std::string>>();
  machine.cuda = where["cuda"].get<std::map<std::string, std::string>>();
  machine.sm = text(where, "sm"), machine.gpu = text(where, "gpu"), machine.driver = text(where, "driver");
  machine.asked = where["asked"].get<bool>(), machine.tegra = where["tegra"].get<bool>();
  machine.cuda_driver = text(where, "cuda_driver"), machine.platform = text(where, "platform");
  const clouds::Verdict found = clouds::judge(facts, machine);
  said.clear();
  for (const auto* findings : {&found.faults, &found.doubts}) {
    if (findings == &found.doubts) said += "|";
    for (const clouds::Finding& one : *findings) said += (said.empty() || said.back() == '|' ? "" : " ") + one.code;
  }
  return said.c_str();
}

// Adds bytes as an engine of a bundle, as clouds_build does; `refused` lets the proof fail.
EXPOSED const char* add_engine(const char* bundle, const char* file, const char* bytes, int refused) {
  return told([&] {
    clouds::EngineEntry entry;
    entry.file = file;
    entry.engine = "tensorrt";
    entry.version = "10.3.0.26";
    entry.sm = "87";
    entry.gpu = "Orin";
    entry.graph_sha256 = std::string(64, '0');
    const std::string plan = bytes;
    clouds::add_engine(bundle, "bundle", entry, {plan.begin(), plan.end()}, [&](const std::filesystem::path& made) {
      clouds::open_segmenter_bundle(made, true);
      if (refused != 0) throw clouds::Error("the engine's labels are not those of the graph", "it was not added");
    });
  });
}

// The three shapes of an input, such as "1,32,64,3 4,32,64,3 8,32,64,3".
EXPOSED const char* engine_shapes(const char* name, const std::int64_t* sizes, std::size_t count) {
  const clouds::TensorSpec spec{name, "float32", {sizes, sizes + count}};
  return told([&] {
    std::string text;
    const auto shapes = clouds::engine_shapes({spec}, {1, 4, 8}, {1, 2, 11}, {19, 10, 768});
    for (const clouds::Shape& shape : shapes.at(name)) {
      if (!text.empty()) text += " ";
      for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? "," : "") + std::to_string(shape[i]);
    }
    throw clouds::Error(text, "");
  });
}

// `sms` has spaces between; `installed` null: the engine's library is not installed.
EXPOSED const char* check_engine(const char* bundle, const char* file, const char* engine, const char* version,
                                 const char* hash, const char* sms, int version_compatible, const char* installed,
                                 const char* sm, const char* gpu, const char* driver) {
  clouds::EngineFacts facts;
  facts.file = file, facts.engine = engine, facts.version = version, facts.sha256 = hash;
  facts.version_compatible = version_compatible != 0;
  std::istringstream words(sms);
  for (std::string word; words >> word;) facts.sms.push_back(word);
  clouds::Machine machine;
  machine.sm = sm, machine.gpu = gpu, machine.driver = driver;
  if (installed != nullptr) machine.versions[engine] = installed;
  return told([&] { clouds::check_engine(facts, bundle, machine); });
}

#ifdef CLOUDS_OPENVINO
// Reads a model, cuts its attention, writes it; gives how many were cut.
EXPOSED int cut_attention(const char* path, const char* out, std::size_t large, std::size_t part) {
  const std::shared_ptr<ov::Model> model = ov::Core().read_model(path);
  const std::size_t count = clouds::cut_attention(model, large, part);
  ov::save_model(model, out, false);
  return static_cast<int>(count);
}
#endif
