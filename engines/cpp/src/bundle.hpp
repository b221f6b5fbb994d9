// A directory that `export` wrote, opened and checked.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "documents.hpp"

namespace clouds {

inline constexpr const char* kGraph = "segmenter.onnx";
inline constexpr const char* kReference = "reference.npz";
inline constexpr const char* kVocabulary = "vocabulary.npz";
inline constexpr const char* kVocabularyInput = "vocabulary";
inline constexpr const char* kShareInput = "class_share";
inline constexpr const char* kSegmenterKind = "bundle";
inline constexpr const char* kSamKind = "sam_bundle";
// Folder of a finished bundle that is no part of what its manifest seals: what self-tests on GPUs found.
inline constexpr const char* kProofs = "proofs";

// Checks a directory against its manifest: that it is of the kind wanted, whole and unchanged, holds nothing else, and
// that neither a name nor a link leads out of it. Throws Error.
Manifest check_directory(const std::filesystem::path& directory, const std::string& kind, bool verify);

// What a directory's manifest says it is; empty where it says nothing.
std::string kind_of(const std::filesystem::path& directory);

struct SegmenterBundle {
  std::filesystem::path path;
  Manifest manifest;
  SegmenterFacts facts;
};

struct SamBundle {
  std::filesystem::path path;
  Manifest manifest;
  SamFacts facts;
};

std::set<std::string> file_names(const Manifest& manifest);

SegmenterBundle open_segmenter_bundle(const std::filesystem::path& path, bool verify);
SamBundle open_sam_bundle(const std::filesystem::path& path, bool verify);

// Classes as a text-headed graph takes them; see clouds_deploy.bundles.vocabulary.
struct Vocabulary {
  std::vector<std::string> names;
  Shape shape;  // (C, S, D)
  std::vector<float> vectors;
  std::vector<float> share;  // (C)
};

Vocabulary read_vocabulary(const std::filesystem::path& path);

// What was packed for the self-test.
struct Reference {
  int images = 0;
  std::vector<std::uint8_t> image;   // (N, H, W, 3)
  std::vector<std::uint8_t> labels;  // (N, H, W)
};

Reference read_reference(const SegmenterBundle& bundle);

}  // namespace clouds
