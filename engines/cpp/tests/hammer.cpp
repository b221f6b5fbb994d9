// clouds_hammer BUNDLE SECONDS THREADS: many threads on one segmenter, each result compared with what one thread got.
// Half of the calls are direct, half go through the queue; sizes differ, so that requests rebind their memory.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "clouds/segmenter.hpp"

namespace {

struct Case {
  int height, width;
  std::vector<std::uint8_t> image, labels;
};

Case make_case(int height, int width, unsigned seed) {
  Case out{height, width, {}, {}};
  const auto pixels = static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  out.image.resize(pixels * 3);
  out.labels.resize(pixels);
  for (std::size_t i = 0; i < out.image.size(); ++i) {
    seed = seed * 1664525U + 1013904223U;
    out.image[i] = static_cast<std::uint8_t>((i / 48) * 7 + (seed >> 27));
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  try {
    clouds::Options options;
    options.threads = 1;
    if (argc > 4) options.backend = argv[4];
    const clouds::Segmenter segmenter(argv[1], options);
    const int height = segmenter.info().height, width = segmenter.info().width;
    std::vector<Case> cases;
    for (unsigned i = 0; i < 6; ++i) {
      const int more = static_cast<int>(i / 2) * 13;
      cases.push_back(make_case(height + more, width - 2 * more, i));
      Case& one = cases.back();
      segmenter.segment({one.image.data(), one.height, one.width}, {one.labels.data(), one.height, one.width});
    }
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(argv[2]));
    std::atomic<std::size_t> calls{0}, wrong{0};
    const auto work = [&](std::size_t number) {
      std::vector<std::uint8_t> labels;
      for (std::size_t turn = number; std::chrono::steady_clock::now() < end; ++turn) {
        const Case& one = cases[turn % cases.size()];
        labels.assign(one.labels.size(), 254);
        const clouds::ImageView image{one.image.data(), one.height, one.width};
        const clouds::MapView map{labels.data(), one.height, one.width};
        if (turn % 2 == 0) {
          segmenter.segment(image, map);
        } else {
          segmenter.submit(image, map).get();
        }
        if (labels != one.labels) ++wrong;
        ++calls;
      }
    };
    std::vector<std::thread> threads;
    const auto count = static_cast<std::size_t>(std::atoi(argv[3]));
    for (std::size_t i = 0; i < count; ++i) threads.emplace_back(work, i);
    for (std::thread& thread : threads) thread.join();
    std::printf("%zu calls from %zu threads, %zu wrong\n", calls.load(), count, wrong.load());
    return wrong == 0 && calls > 0 ? 0 : 1;
  } catch (const clouds::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
