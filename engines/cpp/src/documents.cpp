#include "documents.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "clouds/error.hpp"
#include "names.hpp"

namespace clouds {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int kFormat = 1;  // of manifests; clouds_deploy.artifacts.FORMAT

constexpr std::size_t kLongestText = 4096;  // characters of a fact
constexpr std::size_t kMostClasses = 4096;
constexpr std::size_t kMostTensors = 64;
constexpr std::size_t kMostEngines = 256;
constexpr std::size_t kMostSizes = 8;                          // of a tensor
constexpr std::int64_t kMostNumbers = std::int64_t{1} << 32;  // in a tensor of one image, its batch aside

// The parser quotes what it was reading, which may be no text at all.
std::string printable(std::string words) {
  std::replace_if(
      words.begin(), words.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return words;
}

// A value in an error: a bundle's can be as long as its file.
std::string shown(const json& value) {
  std::string words = printable(value.dump(-1, ' ', true));
  return words.size() <= 80 ? words : words.substr(0, 77) + "...";
}

// What a document would cost more than it is worth by, found in one pass before it is parsed; empty if by nothing. What
// is no JSON passes: the parser, which needs no stack, says what is wrong with it.
std::string excess(std::string_view text) {
  std::size_t depth = 0, deepest = 0, commas = 0, brackets = 0, digits = 0, longest = 0;
  bool quoted = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted) {
      if (c == '\\') ++at;
      quoted = c != '"';
      continue;
    }
    digits = c >= '0' && c <= '9' ? digits + 1 : 0;
    longest = std::max(longest, digits);
    if (c == '"') quoted = true;
    if (c == ',') ++commas;
    if (c == ']' || c == '}') depth -= depth > 0 ? 1 : 0;
    if (c == '[' || c == '{') ++brackets, deepest = std::max(deepest, ++depth);
  }
  if (text.size() > kLargestDocument) return "it is larger than " + std::to_string(kLargestDocument >> 20) + " MiB";
  if (longest > kMostDigits) return "a number has over " + std::to_string(kMostDigits) + " digits";
  if (commas >= kMostValues || brackets > kMostValues) return "it has over " + std::to_string(kMostValues) + " values";
  if (deepest > kMostDepth) return "it is nested over " + std::to_string(kMostDepth) + " deep";
  return "";
}

json parse(std::string_view text, const std::string& where) {
  const std::string wrong = excess(text);
  if (!wrong.empty()) throw Error(where + " is no document of this project: " + wrong, kTampered);
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    throw Error(where + " is not valid JSON: " + printable(error.what()), "make the directory again");
  }
}

// Runs a reading of facts; whatever is missing or of another type ends in one error.
template <typename Read>
auto facts(const std::string& where, Read read, const char* hint = "export it again with this version") {
  try {
    return read();
  } catch (const json::exception& error) {
    throw Error(where + " lacks or garbles a fact: " + printable(error.what()), hint);
  } catch (const std::out_of_range& error) {
    throw Error(where + " lacks or garbles a fact: " + printable(error.what()), hint);
  }
}

std::int64_t integer(const json& value, std::int64_t least, std::int64_t most) {
  if (!value.is_number_integer()) throw std::out_of_range("not a whole number: " + shown(value));
  const bool fits = value.is_number_unsigned() ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most)
                                               : value.get<std::int64_t>() <= most;
  if (!fits || value.get<std::int64_t>() < least) throw std::out_of_range("out of range: " + shown(value));
  return value.get<std::int64_t>();
}

std::array<std::uint8_t, 3> color(const json& value) {
  if (!value.is_array() || value.size() != 3) throw std::out_of_range("a colour has three numbers");
  std::array<std::uint8_t, 3> out{};
  for (std::size_t i = 0; i < 3; ++i) out[i] = static_cast<std::uint8_t>(integer(value[i], 0, 255));
  return out;
}

std::string text_of(const json& value) {
  std::string out = value.get<std::string>();
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; };
  const auto more = static_cast<std::size_t>(std::count_if(out.begin(), out.end(), continues));
  if (out.size() - more > kLongestText) throw std::out_of_range("a text is too long: " + shown(value));
  return out;
}

const json& list(const json& value, std::size_t most) {
  if (!value.is_array() || value.size() > most) throw std::out_of_range("not a list, or too long a one");
  return value;
}

std::vector<std::string> texts(const json& value, std::size_t most) {
  std::vector<std::string> out;
  for (const json& one : list(value, most)) out.push_back(text_of(one));
  return out;
}

TensorSpec spec(const json& value) {
  if (!value.is_object()) throw std::out_of_range("a tensor is no object");
  TensorSpec out{text_of(value.at("name")), text_of(value.at("dtype")), {}};
  const json& sizes = value.at("shape");
  if (!sizes.is_array() || sizes.size() > kMostSizes) throw std::out_of_range("a shape is a list of sizes");
  std::int64_t numbers = 1;
  for (const json& size : sizes) {
    out.shape.push_back(size.is_null() ? -1 : integer(size, 1, 1 << 30));
    if (out.shape.back() > kMostNumbers / numbers) throw std::out_of_range("a tensor is too large");
    if (out.shape.back() > 0) numbers *= out.shape.back();
  }
  return out;
}

std::vector<TensorSpec> specs(const json& value) {
  std::vector<TensorSpec> out;
  for (const json& one : list(value, kMostTensors)) out.push_back(spec(one));
  if (out.empty()) throw std::out_of_range("a graph has inputs and outputs");
  return out;
}

EngineFacts engine(const json& value) {
  if (!value.is_object()) throw std::out_of_range("an engine is no object");
  EngineFacts out;
  out.file = text_of(value.at("file"));
  out.engine = text_of(value.at("engine"));
  out.version = text_of(value.at("version"));
  out.sha256 = text_of(value.at("sha256"));
  out.sms = texts(value.at("sms"), kMostTensors);
  out.version_compatible = value.value("version_compatible", false);
  out.hardware_compatible = value.value("hardware_compatible", false);
  const json built = value.value("built_on", json::object());
  if (!built.is_object()) throw std::out_of_range("built_on is no object");
  const auto told = [&](const char* name) {
    return built.contains(name) && !built[name].is_null() ? text_of(built[name]) : std::string();
  };
  out.gpu = told("gpu"), out.sm = told("sm"), out.cuda = told("cuda"), out.platform = told("platform");
  return out;
}

std::vector<EngineFacts> engines(const json& value) {
  std::vector<EngineFacts> out;
  if (!value.contains("engines")) return out;
  for (const json& one : list(value["engines"], kMostEngines)) out.push_back(engine(one));
  return out;
}

GraphFacts graph(const json& value, const std::string& file) {
  if (value.value("file", file) != file) throw std::out_of_range("a graph's file is not " + file);
  return {file, specs(value.at("inputs")), specs(value.at("outputs"))};
}

}  // namespace

Manifest parse_manifest(std::string_view text, const std::string& where, const std::string& directory,
                        const std::string& wanted) {
  const json value = parse(text, where);
  if (!value.is_object() || !value.contains("format") || value["format"] != kFormat) {
    throw Error(where + " is not of format " + std::to_string(kFormat), "make it with this version");
  }
  const std::string kind =
      !value.contains("kind") ? "None" : value["kind"].is_string() ? value["kind"].get<std::string>() : value["kind"].dump();
  if (kind != wanted) {
    const std::string told = shown_name(kind);
    throw Error(directory + " is a " + told.substr(1, told.size() - 2) + ", not a " + wanted,
                "give the path of a " + wanted);
  }
  const auto read = [&] {
    Manifest out;
    out.kind = kind;
    const json& files = value.at("files");
    if (!files.is_object()) throw std::out_of_range("files is no object");
    for (const auto& [name, entry] : files.items()) {
      if (!entry.is_object()) throw std::out_of_range("an entry of files is no object");
      const std::string hash = entry.at("sha256").get<std::string>();
      if (hash.size() != 64 || hash.find_first_not_of("0123456789abcdef") != std::string::npos) {
        throw std::out_of_range("a sha256 is none: " + shown(entry["sha256"]));
      }
      out.files[name] = {static_cast<std::uint64_t>(integer(entry.at("bytes"), 0, INT64_MAX)), hash};
    }
    return out;
  };
  return facts(where, read, "copy the directory again, or make it again");
}

std::string parse_kind(std::string_view text, const std::string& where) {
  const json value = parse(text, where);
  const bool named = value.is_object() && value.contains("kind") && value["kind"].is_string();
  return named ? value["kind"].get<std::string>() : "";
}

SegmenterFacts parse_segmenter(std::string_view text, const std::string& where) {
  const json value = parse(text, where);
  return facts(where, [&] {
    SegmenterFacts out;
    out.inputs = specs(value.at("inputs"));
    out.outputs = specs(value.at("outputs"));
    out.height = static_cast<int>(integer(value.at("height"), 1, 1 << 16));
    out.width = static_cast<int>(integer(value.at("width"), 1, 1 << 16));
    out.mean_color = color(value.at("mean_color"));
    out.classes = texts(value.at("classes"), kMostClasses);
    for (const json& one : list(value.at("palette"), kMostClasses)) out.palette.push_back(color(one));
    const std::string inference = text_of(value.at("inference"));
    if (inference != "exact" && inference != "fast") throw std::out_of_range("inference is neither exact nor fast");
    if (!value.at("recipe").is_object()) throw std::out_of_range("recipe is no object");
    if (value.contains("precision")) out.precision = text_of(value["precision"]);
    out.backbone_weights = text_of(value.at("backbone_weights"));
    out.random_weights = value.value("random_weights", false);
    out.label_agreement = value.at("label_agreement").get<double>();
    out.engines = engines(value);
    return out;
  });
}

SamFacts parse_sam(std::string_view text, const std::string& where) {
  const json value = parse(text, where);
  return facts(where, [&] {
    const json& graphs = value.at("graphs");
    text_of(value.at("weights"));
    return SamFacts{text_of(value.at("name")), static_cast<int>(integer(value.at("image_size"), 1, 1 << 16)),
                    graph(graphs.at("encoder"), "encoder.onnx"), graph(graphs.at("decoder"), "decoder.onnx"), engines(value)};
  });
}

std::string with_engine(std::string_view text, const std::string& where, const EngineEntry& engine) {
  parse(text, where);  // the limits
  return facts(where, [&] {
    ordered_json value = ordered_json::parse(text);
    ordered_json one = {{"file", engine.file},
                        {"engine", engine.engine},
                        {"sms", ordered_json::array()},
                        {"batch", engine.batch},
                        {"workspace_mib", nullptr},
                        {"version_compatible", engine.version_compatible},
                        {"hardware_compatible", false},
                        {"graph_sha256", engine.graph_sha256},
                        {"version", engine.version},
                        {"bytes", engine.bytes},
                        {"sha256", engine.sha256},
                        {"built_on", {{"gpu", engine.gpu}, {"sm", engine.sm}, {"platform", engine.platform}}}};
    if (engine.workspace_mib > 0) one["workspace_mib"] = engine.workspace_mib;
    ordered_json kept = ordered_json::array();
    for (const ordered_json& other : value.value("engines", ordered_json::array())) {
      if (other.at("file") != engine.file) kept.push_back(other);
    }
    kept.push_back(one);
    value["engines"] = kept;
    return value.dump(2) + "\n";
  });
}

std::string with_files(std::string_view text, const std::string& where, const std::map<std::string, FileEntry>& files) {
  parse(text, where);
  return facts(where, [&] {
    ordered_json value = ordered_json::parse(text);
    for (const auto& [name, entry] : files) {
      value.at("files")[name] = {{"bytes", entry.bytes}, {"sha256", entry.sha256}};
    }
    return value.dump(2) + "\n";
  });
}

std::vector<std::string> parse_names(std::string_view text, const std::string& where) {
  return parse(text, where).get<std::vector<std::string>>();
}

}  // namespace clouds
