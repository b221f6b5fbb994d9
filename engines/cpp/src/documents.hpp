// The JSON files of a bundle as plain structs. This is the only place that knows JSON.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tensor.hpp"

namespace clouds {

// What a document may cost; the same in clouds_deploy.artifacts.
inline constexpr std::size_t kLargestDocument = std::size_t{16} << 20;  // bytes
inline constexpr std::size_t kMostDepth = 64;
inline constexpr std::size_t kMostDigits = 400;  // of one number
inline constexpr std::size_t kMostValues = 1000000;

struct FileEntry {
  std::uint64_t bytes = 0;
  std::string sha256;
};

struct Manifest {
  std::string kind;
  std::map<std::string, FileEntry> files;
};

// An engine that was built into the bundle.
struct EngineFacts {
  std::string file;
  std::string engine;
  std::string version;
  std::string sha256;
  std::vector<std::string> sms;
  bool version_compatible = false;
  bool hardware_compatible = false;
  // Of the machine that built it; empty where it is not recorded.
  std::string gpu, sm, cuda, platform;
};

// An engine that was built here, with all that a bundle says of it.
struct EngineEntry {
  std::string file;
  std::string engine;
  std::string version;
  std::string sha256;
  std::uint64_t bytes = 0;
  std::string graph_sha256;
  std::string sm;
  std::string gpu;
  std::string platform;
  std::array<std::int64_t, 3> batch{1, 1, 1};
  std::size_t workspace_mib = 0;  // 0: no limit
  bool version_compatible = false;
};

struct SegmenterFacts {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  int height = 0;
  int width = 0;
  std::array<std::uint8_t, 3> mean_color{};
  std::vector<std::string> classes;
  std::vector<std::array<std::uint8_t, 3>> palette;
  std::string precision;
  std::string backbone_weights;
  bool random_weights = false;
  double label_agreement = 0;
  std::vector<EngineFacts> engines;
};

struct GraphFacts {
  std::string file;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
};

struct SamFacts {
  std::string name;
  int image_size = 0;
  GraphFacts encoder;
  GraphFacts decoder;
  std::vector<EngineFacts> engines;
};

// Each reads a file's text; `where` is the file's path, for errors. `wanted` is the kind of directory.
Manifest parse_manifest(std::string_view text, const std::string& where, const std::string& directory,
                        const std::string& wanted);
std::string parse_kind(std::string_view text, const std::string& where);  // of a manifest; empty where it has none
SegmenterFacts parse_segmenter(std::string_view text, const std::string& where);
SamFacts parse_sam(std::string_view text, const std::string& where);

// The texts of bundle.json and of manifest.json with an engine, or with files, added or replaced.
std::string with_engine(std::string_view text, const std::string& where, const EngineEntry& engine);
std::string with_files(std::string_view text, const std::string& where, const std::map<std::string, FileEntry>& files);

std::vector<std::string> parse_names(std::string_view text, const std::string& where);  // throws std::exception

}  // namespace clouds
