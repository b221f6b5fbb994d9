#include "bundle.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <regex>

#include "clouds/error.hpp"
#include "files.hpp"
#include "names.hpp"
#include "npz.hpp"
#include "onnx_model.hpp"

namespace clouds {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "manifest.json";
constexpr const char* kFacts = "bundle.json";
constexpr std::size_t kLargestVocabulary = std::size_t{64} << 20;  // bytes
constexpr std::size_t kLargest = 255;  // classes that uint8 labels tell apart, 255 kept for "ignore"

void check_file(const fs::path& path, const fs::path& directory, const FileEntry& entry, const std::string& kind,
                bool verify) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    throw Error(path.string() + " is missing from the " + kind, "copy the directory again, whole");
  }
  if (leads_out(path, directory)) throw Error(path.string() + " is a link that leads out of its directory", kTampered);
  const bool same = fs::file_size(path, error) == entry.bytes && !error && (!verify || sha256_of(path) == entry.sha256);
  if (!same) {
    throw Error(path.string() + " is not the file its manifest names (size or sha256 differ)",
                "copy the directory again, or make it again");
  }
}


// Whether a file is one that another process is just writing, or was when it died.
bool is_temporary(const std::string& name) {
  static const std::regex kName(R"(\..*\.tmp-[0-9]+-[0-9]+-[0-9a-f]{8}-[0-9a-f]{8})");
  return name == ".claim" || (name.size() <= 300 && std::regex_match(name, kName));
}

// Refuses what lies in a directory and is not in its manifest. Links are not followed.
void check_nothing_else(const fs::path& directory, const Manifest& manifest, const std::string& kind) {
  std::error_code error;
  for (fs::recursive_directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
    const fs::path name = at->path().lexically_relative(directory);
    if (at->is_directory(error) && !at->is_symlink(error)) {
      if (name == kProofs) at.disable_recursion_pending();
      continue;
    }
    const std::string text = name.generic_u8string();
    if (text == kManifest || manifest.files.count(text) != 0 || is_temporary(name.filename().u8string())) continue;
    const std::string shown = shown_name(name.filename().u8string());
    const fs::path folder = at->path().parent_path();
    throw Error((folder / fs::u8path(shown.substr(1, shown.size() - 2))).string() + " is not in the manifest of the " +
                    kind,
                "remove it, or copy the directory again");
  }
}

void check_specs(const SegmenterBundle& bundle) {
  const SegmenterFacts& facts = bundle.facts;
  const TensorSpec &image = facts.inputs[0], &labels = facts.outputs[0];
  bool fits = image.dtype == "uint8" && image.shape == Shape{-1, facts.height, facts.width, 3} &&
              labels.dtype == "uint8" && labels.shape == Shape{-1, facts.height, facts.width} &&
              facts.outputs.size() <= 2;
  if (facts.outputs.size() == 2) {
    const TensorSpec& scores = facts.outputs[1];
    fits = fits && scores.dtype == "float32" && scores.shape.size() == 4 && scores.shape[2] > 0 && scores.shape[3] > 0;
  }
  for (std::size_t i = 1; i < facts.inputs.size(); ++i) {
    const TensorSpec& spec = facts.inputs[i];
    const bool known = (spec.name == kVocabularyInput && spec.shape.size() == 3) ||
                       (spec.name == kShareInput && spec.shape.size() == 1);
    fits = fits && known && spec.dtype == "float32";
  }
  if (!fits) {
    throw Error((bundle.path / kFacts).string() + " lacks or garbles a fact: inputs or outputs of another shape",
                "export it again with this version");
  }
}

std::vector<float> floats(const NpyArray& array) {
  std::vector<float> out(array.bytes.size() / sizeof(float));
  std::memcpy(out.data(), array.bytes.data(), out.size() * sizeof(float));
  return out;
}

std::string listed(const Shape& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

}  // namespace

Manifest check_directory(const fs::path& directory, const std::string& kind, bool verify) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    throw Error("there is no directory " + directory.string(), "give the path of a " + kind);
  }
  const fs::path path = directory / kManifest;
  if (fs::symlink_status(path, error).type() == fs::file_type::not_found) {
    throw Error(directory.string() + " has no " + kManifest + ": it is not a finished " + kind, "make it again");
  }
  Manifest manifest = parse_manifest(read_document(path), path.string(), directory.string(), kind);
  for (const auto& [name, entry] : manifest.files) {
    const std::string wrong = name_fault(name);
    if (!wrong.empty()) {
      throw Error(path.string() + " names a file outside of its directory: " + shown_name(name) + " " + wrong, kTampered);
    }
  }
  check_nothing_else(directory, manifest, kind);
  for (const auto& [name, entry] : manifest.files) {
    check_file(directory / fs::u8path(name), directory, entry, kind, verify);
  }
  return manifest;
}

std::string kind_of(const fs::path& directory) {
  std::error_code error;
  const fs::path path = directory / kManifest;
  return fs::is_regular_file(path, error) ? parse_kind(read_document(path), path.string()) : "";
}

std::set<std::string> file_names(const Manifest& manifest) {
  std::set<std::string> out;
  for (const auto& [name, entry] : manifest.files) out.insert(name);
  return out;
}

SegmenterBundle open_segmenter_bundle(const fs::path& path, bool verify) {
  Manifest manifest = check_directory(path, kSegmenterKind, verify);
  const fs::path facts = path / kFacts;
  SegmenterBundle out{path, std::move(manifest), parse_segmenter(read_document(facts), facts.string())};
  check_specs(out);
  check_graph(path / kGraph, file_names(out.manifest));
  return out;
}

SamBundle open_sam_bundle(const fs::path& path, bool verify) {
  Manifest manifest = check_directory(path, kSamKind, verify);
  const fs::path facts = path / kFacts;
  SamBundle out{path, std::move(manifest), parse_sam(read_document(facts), facts.string())};
  for (const GraphFacts* graph : {&out.facts.encoder, &out.facts.decoder}) {
    check_graph(path / fs::u8path(graph->file), file_names(out.manifest));
  }
  return out;
}

Vocabulary read_vocabulary(const fs::path& path) {
  const std::string make = "make one with clouds_deploy.embed_classes";
  const std::string again = "make it again with clouds_deploy.embed_classes";
  std::error_code error;
  if (!fs::is_regular_file(path, error)) throw Error("there is no vocabulary file " + path.string(), make);
  const std::string where = path.string();
  Vocabulary out;
  NpyArray vectors, share;
  try {
    auto arrays = read_npz(read_bytes(path, kLargestVocabulary), where, {"names", "vectors", "share"});
    const NpyArray& names = arrays.at("names");
    out.names = parse_names({reinterpret_cast<const char*>(names.bytes.data()), names.bytes.size()}, where);
    vectors = arrays.at("vectors");
    share = arrays.at("share");
  } catch (const std::exception& fault) {
    throw Error(where + " is no vocabulary file: " + fault.what(), make);
  }
  const bool three = vectors.dtype == "<f4" && vectors.shape.size() == 3 && elements(vectors.shape) > 0;
  if (!three) {
    throw Error(where + ": vectors are " + vectors.dtype + " " + listed(vectors.shape) + ", not float32 [C, S, D]",
                again);
  }
  const auto count = static_cast<std::int64_t>(out.names.size());
  if (share.dtype != "<f4" || share.shape != Shape{count} || vectors.shape[0] != count) {
    throw Error(where + ": " + std::to_string(count) + " names, " + std::to_string(vectors.shape[0]) +
                    " rows of vectors, " + std::to_string(elements(share.shape)) + " shares",
                again);
  }
  if (out.names.size() > kLargest) {
    throw Error(where + ": " + std::to_string(count) + " classes, labels tell 255 apart", "name fewer classes");
  }
  out.shape = vectors.shape;
  out.vectors = floats(vectors);
  out.share = floats(share);
  const bool finite = std::all_of(out.vectors.begin(), out.vectors.end(), [](float v) { return std::isfinite(v); });
  const bool shares = std::all_of(out.share.begin(), out.share.end(), [](float v) { return v >= 0 && v <= 1; });
  if (!finite || !shares) throw Error(where + ": a vector is not finite, or a share not in 0..1", again);
  return out;
}

Reference read_reference(const SegmenterBundle& bundle) {
  const fs::path path = bundle.path / kReference;
  auto arrays = read_npz(read_bytes(path, kLargestArrays), path.string(), {"image", "labels"});
  const NpyArray& image = arrays["image"];
  const NpyArray& labels = arrays["labels"];
  const std::int64_t count = image.shape.empty() ? 0 : image.shape[0];
  const Shape size{count, bundle.facts.height, bundle.facts.width};
  Shape pixels = size;
  pixels.push_back(3);
  if (count < 1 || image.dtype != "|u1" || labels.dtype != "|u1" || image.shape != pixels || labels.shape != size) {
    throw Error(path.string() + " holds no reference images of the graph's size", "export it again");
  }
  return {static_cast<int>(count), image.bytes, labels.bytes};
}

}  // namespace clouds
