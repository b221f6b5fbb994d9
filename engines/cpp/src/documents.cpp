#include "documents.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "clouds/error.hpp"

namespace clouds {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int kFormat = 1;  // of manifests; clouds_deploy.artifacts.FORMAT

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

// Everything that a document could be made of to cost more than it is worth, in one pass before it is parsed. What is
// no JSON passes: the parser, which needs no stack, says what is wrong with it.
void check_limits(std::string_view text) {
  std::size_t depth = 0, values = 1, digits = 0;
  bool quoted = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted) {
      if (c == '\\') ++at;
      quoted = c != '"';
      continue;
    }
    digits = c >= '0' && c <= '9' ? digits + 1 : 0;
    if (digits > kMostDigits) throw std::length_error("a number has over " + std::to_string(kMostDigits) + " digits");
    if (c == '"') quoted = true;
    if (c == ',') ++values;
    if (c == ']' || c == '}') depth -= depth > 0 ? 1 : 0;
    if ((c == '[' || c == '{') && ++depth > kMostDepth) {
      throw std::length_error("it is nested over " + std::to_string(kMostDepth) + " deep");
    }
    if (values > kMostValues) throw std::length_error("it has over " + std::to_string(kMostValues) + " values");
  }
}

json parsed(std::string_view text) {
  if (text.size() > kLargestDocument) {
    throw std::length_error("it is larger than " + std::to_string(kLargestDocument >> 20) + " MiB");
  }
  check_limits(text);
  return json::parse(text);
}

json parse(std::string_view text, const std::string& where) {
  try {
    return parsed(text);
  } catch (const std::length_error& error) {
    throw Error(where + " is no document of a bundle: " + error.what(), "don't use it: it was tampered with");
  } catch (const json::exception& error) {
    throw Error(where + " is not valid JSON: " + printable(error.what()), "make the directory again");
  }
}

// Runs a reading of facts; whatever is missing or of another type ends in one error.
template <typename Read>
auto facts(const std::string& where, Read read) {
  try {
    return read();
  } catch (const json::exception& error) {
    throw Error(where + " lacks or garbles a fact: " + printable(error.what()), "export it again with this version");
  } catch (const std::out_of_range& error) {
    throw Error(where + " lacks or garbles a fact: " + printable(error.what()), "export it again with this version");
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

TensorSpec spec(const json& value) {
  TensorSpec out{value.at("name").get<std::string>(), value.at("dtype").get<std::string>(), {}};
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
  if (!value.is_array()) throw std::out_of_range("inputs and outputs are lists");
  std::vector<TensorSpec> out;
  for (const json& one : value) out.push_back(spec(one));
  if (out.empty()) throw std::out_of_range("a graph has inputs and outputs");
  return out;
}

EngineFacts engine(const json& value) {
  return {value.at("file").get<std::string>(),
          value.at("engine").get<std::string>(),
          value.at("version").get<std::string>(),
          value.at("sha256").get<std::string>(),
          value.at("sms").get<std::vector<std::string>>(),
          value.value("version_compatible", false)};
}

std::vector<EngineFacts> engines(const json& value) {
  std::vector<EngineFacts> out;
  if (!value.contains("engines")) return out;
  if (!value["engines"].is_array()) throw std::out_of_range("engines is no list");
  for (const json& one : value["engines"]) out.push_back(engine(one));
  return out;
}

GraphFacts graph(const json& value) {
  return {value.at("file").get<std::string>(), specs(value.at("inputs")), specs(value.at("outputs"))};
}

}  // namespace

Manifest parse_manifest(std::string_view text, const std::string& where, const std::string& directory,
                        const std::string& wanted) {
  const json value = parse(text, where);
  if (!value.is_object() || !value.contains("format") || value["format"] != kFormat) {
    throw Error(where + " is not of format " + std::to_string(kFormat), "make it with this version");
  }
  return facts(where, [&] {
    Manifest out;
    out.kind = value.value("kind", "None");
    if (out.kind != wanted) {
      throw Error(directory + " is a " + out.kind + ", not a " + wanted, "give the path of a " + wanted);
    }
    const json& files = value.at("files");
    if (!files.is_object()) throw std::out_of_range("files is no object");
    for (const auto& [name, entry] : files.items()) {
      out.files[name] = {static_cast<std::uint64_t>(integer(entry.at("bytes"), 0, INT64_MAX)),
                         entry.at("sha256").get<std::string>()};
    }
    return out;
  });
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
    out.classes = value.at("classes").get<std::vector<std::string>>();
    for (const json& one : value.at("palette")) out.palette.push_back(color(one));
    out.precision = value.value("precision", "fp32");
    out.backbone_weights = value.at("backbone_weights").get<std::string>();
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
    return SamFacts{value.at("name").get<std::string>(), static_cast<int>(integer(value.at("image_size"), 1, 1 << 16)),
                    graph(graphs.at("encoder")), graph(graphs.at("decoder")), engines(value)};
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
                        {"gpu", engine.gpu}};
    if (!engine.sm.empty()) one["sms"].push_back(engine.sm);
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

std::vector<std::string> parse_names(std::string_view text) {
  return parsed(text).get<std::vector<std::string>>();
}

}  // namespace clouds
