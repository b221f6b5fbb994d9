// clouds_selftest BUNDLE: labels the bundle's own images on this machine, and compares with PyTorch's labels.
#include "arguments.hpp"

int main(int argc, char** argv) {
  return arguments::guarded([&] {
    const auto given = arguments::parse(argc, argv, arguments::kRunOptions, {"--no-verify", "--help"});
    if (given.has("--help") || given.rest.size() != 1) {
      std::printf("clouds_selftest BUNDLE [options]\n%s", arguments::kRunHelp);
      return given.has("--help") ? 0 : 2;
    }
    const clouds::Segmenter segmenter(given.rest[0], arguments::run_options(given));
    const clouds::SegmenterInfo& info = segmenter.info();
    arguments::warn(info.warnings);
    const clouds::SelfTest result = segmenter.self_test();
    std::printf("%s: %d x %d, %s, %zu classes, on %s %s%s\n", info.path.c_str(), info.height, info.width,
                info.precision.c_str(), info.classes.size(), info.backend.c_str(), info.device.c_str(),
                info.random_weights ? ", RANDOM weights" : "");
    std::printf("%d images, %.4f %% of the labels are PyTorch's, at least %.4f %% have to be: %s\n", result.images,
                100 * result.agreement, 100 * result.limit, result.passed() ? "ok" : "FAILED");
    return result.passed() ? 0 : 1;
  });
}
