// clouds_segment BUNDLE IMAGE|FOLDER... --out DIR: the sample. Reads on while the segmenter works, through its queue.
#include <algorithm>
#include <deque>
#include <filesystem>
#include <future>
#include <memory>
#include <new>

#include "arguments.hpp"
#include "images.hpp"
#include "overlay.hpp"

#if defined(CLOUDS_OPENCV)
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#endif

namespace {

namespace fs = std::filesystem;
using Palette = std::vector<std::array<std::uint8_t, 3>>;

struct Item {
  fs::path path;
  std::string name;  // of the results, without suffix
};

// Images among files and, recursively, folders; hidden ones don't count. Every result gets a name of its own.
std::vector<Item> list(const std::vector<std::string>& roots) {
  std::vector<Item> out;
  std::vector<std::string> taken;
  for (const fs::path root : roots) {
    std::vector<fs::path> found;
    if (fs::is_directory(root)) {
      for (const auto& entry : fs::recursive_directory_iterator(root)) {
        const bool hidden = entry.path().filename().string()[0] == '.';
        if (entry.is_regular_file() && !hidden && images::is_image(entry.path())) found.push_back(entry.path());
      }
      if (found.empty()) throw clouds::Error(root.string() + " holds no images", "looked for .png, .jpg, .jpeg, .ppm");
      std::sort(found.begin(), found.end());
    } else if (fs::is_regular_file(root)) {
      found.push_back(root);
    } else {
      throw clouds::Error("there is no file or folder " + root.string(), "check the path");
    }
    for (const fs::path& path : found) {
      fs::path inside = fs::is_directory(root) ? path.lexically_relative(root) : path.filename();
      std::string name = inside.replace_extension().generic_string();
      const auto used = [&](const std::string& word) {
        return std::find(taken.begin(), taken.end(), word) != taken.end();
      };
      if (used(name)) name += "_" + path.extension().string().substr(1);
      const std::string base = name;
      for (int number = 2; used(name); ++number) name = base + "-" + std::to_string(number);
      taken.push_back(name);
      out.push_back({path, name});
    }
  }
  return out;
}

// An image on its way through the queue.
struct Job {
  Item item;
  images::Picture picture;
  std::vector<std::uint8_t> labels;
  std::future<void> done;
};

void write(Job& job, const fs::path& out, const Palette* palette) {
  job.done.get();
  const images::Picture& picture = job.picture;
  images::write_png(out / "labels" / (job.item.name + ".png"), job.labels.data(), picture.height, picture.width, 1);
  if (palette == nullptr) return;
  const images::Picture shown = images::overlay(picture, job.labels, *palette);
  images::write_png(out / "overlays" / (job.item.name + ".png"), shown.rgb.data(), shown.height, shown.width, 3);
}

int label_images(const clouds::Segmenter& segmenter, const std::vector<Item>& items, const fs::path& out,
                 const Palette* palette, std::size_t room) {
  std::deque<std::unique_ptr<Job>> under_way;
  std::size_t failed = 0;
  const auto attempt = [&](auto step) {
    try {
      step();
    } catch (const clouds::Error& error) {
      ++failed;
      std::fprintf(stderr, "failed: %s\n  fix: %s\n", error.message().c_str(), error.hint().c_str());
    } catch (const std::bad_alloc&) {
      ++failed;
      std::fprintf(stderr, "failed: an image needs more memory than there is\n  fix: leave out the largest\n");
    }
  };
  const auto finish_first = [&] {
    const std::unique_ptr<Job> job = std::move(under_way.front());
    under_way.pop_front();
    attempt([&] { write(*job, out, palette); });
  };
  for (const Item& item : items) {
    attempt([&] {
      auto job = std::make_unique<Job>();
      job->item = item;
      job->picture = images::read(item.path);
      const int height = job->picture.height, width = job->picture.width;
      job->labels.resize(static_cast<std::size_t>(height) * static_cast<std::size_t>(width));
      job->done = segmenter.submit({job->picture.rgb.data(), height, width}, {job->labels.data(), height, width});
      under_way.push_back(std::move(job));
    });
    while (under_way.size() > room) finish_first();
  }
  while (!under_way.empty()) finish_first();
  std::printf("%zu of %zu images labelled in %s\n", items.size() - failed, items.size(), out.string().c_str());
  return failed == 0 ? 0 : 1;
}

#if defined(CLOUDS_OPENCV)
// Frames of a file or a camera; OpenCV gives BGR with its own strides, which go in without a copy.
int label_video(const clouds::Segmenter& segmenter, const std::string& source, const fs::path& out,
                const Palette* palette) {
  const bool camera =
      !source.empty() && std::all_of(source.begin(), source.end(), [](char c) { return c >= '0' && c <= '9'; });
  cv::VideoCapture video = camera ? cv::VideoCapture(std::stoi(source)) : cv::VideoCapture(source);
  if (!video.isOpened())
    throw clouds::Error(source + " is no video and no camera that OpenCV can open", "check the path");
  cv::Mat frame, rgb;
  int count = 0;
  for (; video.read(frame); ++count) {
    std::vector<std::uint8_t> labels(frame.total());
    segmenter.segment(
        {frame.data, frame.rows, frame.cols, static_cast<std::ptrdiff_t>(frame.step), clouds::PixelFormat::bgr},
        {labels.data(), frame.rows, frame.cols});
    char name[32];
    std::snprintf(name, sizeof name, "%06d.png", count);
    images::write_png(out / "labels" / name, labels.data(), frame.rows, frame.cols, 1);
    if (palette == nullptr) continue;
    cv::cvtColor(frame, rgb, cv::COLOR_BGR2RGB);
    const images::Picture shown =
        images::overlay({rgb.rows, rgb.cols, {rgb.data, rgb.data + rgb.total() * 3}}, labels, *palette);
    images::write_png(out / "overlays" / name, shown.rgb.data(), shown.height, shown.width, 3);
  }
  std::printf("%d frames labelled in %s\n", count, out.string().c_str());
  return count > 0 ? 0 : 1;
}
#else
int label_video(const clouds::Segmenter&, const std::string&, const fs::path&, const Palette*) {
  throw clouds::Error("this build reads no videos", "install OpenCV and build again, or give images");
}
#endif

void help() {
  std::printf(
      "clouds_segment BUNDLE IMAGE|FOLDER... --out DIR [options]\n"
      "  --out DIR          gets labels/NAME.png (train ids) and overlays/NAME.png\n"
      "  --no-overlays      label maps only\n"
      "  --video SOURCE     a video file, or the number of a camera (needs OpenCV)\n"
      "%s",
      arguments::kRunHelp);
}

}  // namespace

int main(int argc, char** argv) {
  return arguments::guarded([&] {
    std::set<std::string> with_value = arguments::kRunOptions;
    with_value.insert({"--out", "--video"});
    const auto given = arguments::parse(argc, argv, with_value, {"--no-verify", "--no-overlays", "--help"});
    const bool enough = !given.rest.empty() && given.has("--out") && (given.rest.size() > 1) != given.has("--video");
    if (given.has("--help") || !enough) {
      help();
      return given.has("--help") ? 0 : 2;
    }
    const clouds::Options options = arguments::run_options(given);
    const std::vector<Item> items = list({given.rest.begin() + 1, given.rest.end()});
    const clouds::Segmenter segmenter(given.rest[0], options);
    arguments::warn(segmenter.info().warnings);
    const Palette* palette = given.has("--no-overlays") ? nullptr : &segmenter.info().palette;
    const fs::path out = given.get("--out");
    if (given.has("--video")) return label_video(segmenter, given.get("--video"), out, palette);
    return label_images(segmenter, items, out, palette, options.queue);
  });
}
