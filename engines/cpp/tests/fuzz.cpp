// Whatever lies in a bundle's files, or in an image: it is read, or refused with an Error; nothing else.
//
// With libFuzzer: clouds_fuzz CORPUS. Without: clouds_fuzz SECONDS FILE..., which mutates the files by itself.
// Compiled once for documents, arrays and graphs, and once for images: clouds_fuzz_images.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "clouds/error.hpp"
#include "files.hpp"
#if defined(CLOUDS_FUZZ_IMAGES)
#include "images.hpp"
#else
#include "documents.hpp"
#include "npz.hpp"
#include "onnx_model.hpp"
#endif

namespace {

template <typename Read>
void attempt(Read read) {
  try {
    read();
  } catch (const clouds::Error& error) {
    if (error.message().empty() || error.hint().empty()) std::abort();
  }
}

#if defined(CLOUDS_FUZZ_IMAGES)
void read_all(const std::uint8_t* data, std::size_t size) {
  attempt([&] {
    const images::Picture picture = images::decode({data, data + size}, "image");
    const auto pixels = static_cast<std::size_t>(picture.height) * static_cast<std::size_t>(picture.width);
    if (pixels == 0 || picture.rgb.size() != 3 * pixels) std::abort();
  });
}
#else
void read_all(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attempt([&] { clouds::parse_manifest(text, "manifest.json", ".", "bundle"); });
  attempt([&] { clouds::parse_segmenter(text, "bundle.json"); });
  attempt([&] { clouds::parse_sam(text, "bundle.json"); });
  attempt([&] { clouds::read_npz({data, data + size}, "reference.npz"); });
  attempt([&] { clouds::read_npz({data, data + size}, "vocabulary.npz", {"names"}); });
  attempt([&] {
    std::istringstream model{std::string(text)};
    clouds::check_graph(model, "segmenter.onnx", {"weights.bin"});
  });
}
#endif

}  // namespace

#if defined(CLOUDS_LIBFUZZER)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  read_all(data, size);
  return 0;
}
#else
namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes mutate(Bytes bytes, const Bytes& other, std::mt19937& random) {
  const auto below = [&](std::size_t limit) { return limit == 0 ? 0 : random() % limit; };
  static const std::vector<std::string> kWords = {
      "null", "-1",     "1e999", "99999999999999999999", "[]",        "{}", "\"\"", "true", "\xff",
      "0.5",  "\"..\"", "[[[[",  "PK\x01\x02",           "PK\x05\x06"};
  for (std::size_t times = 1 + below(4); times > 0; --times) {
    const std::size_t at = below(bytes.size() + 1);
    const auto here = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    const std::size_t span = below(std::min<std::size_t>(bytes.size() - at + 1, 40));
    switch (below(6)) {
      case 0:
        if (at < bytes.size()) bytes[at] = static_cast<std::uint8_t>(random());
        break;
      case 1:
        bytes.erase(here, here + static_cast<std::ptrdiff_t>(span));
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3: {
        const Bytes copy(here, here + static_cast<std::ptrdiff_t>(span));
        bytes.insert(bytes.begin(), copy.begin(), copy.end());
        break;
      }
      case 4: {
        const std::string& word = kWords[below(kWords.size())];
        bytes.erase(here, here + static_cast<std::ptrdiff_t>(std::min(span, word.size())));
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), word.begin(), word.end());
        break;
      }
      default: {
        const std::size_t from = below(other.size() + 1);
        bytes.resize(at);
        bytes.insert(bytes.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
      }
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::vector<Bytes> seeds;
  for (int i = 2; i < argc; ++i) seeds.push_back(clouds::read_bytes(argv[i]));
  std::mt19937 random(7);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(argv[1]));
  std::size_t count = 0;
  for (; std::chrono::steady_clock::now() < end; ++count) {
    const Bytes bytes = mutate(seeds[random() % seeds.size()], seeds[random() % seeds.size()], random);
    read_all(bytes.data(), bytes.size());
  }
  std::printf("%zu mutants read or refused\n", count);
  return 0;
}
#endif
