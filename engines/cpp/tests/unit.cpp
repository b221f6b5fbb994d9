// The segmenter on a graph of the tests' own: each pixel's label is its red value modulo 19. What runs here has no
// runtime in it, so that sanitizers see every byte and every lock.
#include <atomic>
#include <climits>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "segmenter_body.hpp"

namespace {

int failures = 0;

#define CHECK(what)                                                   \
  do {                                                                \
    if (!(what)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
      ++failures;                                                     \
    }                                                                 \
  } while (false)

constexpr int kHeight = 32, kWidth = 64, kClasses = 19;

// What the fake graph was asked, and a gate to hold it at.
struct Watch {
  std::atomic<const void*> last_input{nullptr};
  std::atomic<const void*> last_output{nullptr};
  std::atomic<const void*> last_stream{nullptr};
  std::atomic<bool> all_on_device{false};
  bool on_gpu = false;
  std::atomic<int> requests{0}, running{0}, most_running{0};
  std::mutex mutex;
  std::condition_variable changed;
  bool open = true;
  bool fail = false;

  void pass() {
    std::unique_lock lock(mutex);
    const int now = ++running;
    if (now > most_running) most_running = now;
    changed.notify_all();
    changed.wait(lock, [&] { return open; });
    --running;
    if (fail) throw clouds::Error("the graph failed", "fix it");
  }
  void set_open(bool value) {
    const std::lock_guard lock(mutex);
    open = value;
    changed.notify_all();
  }
  void wait_running(int count) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return running == count; });
  }
};

class FakeRequest : public clouds::Request {
 public:
  explicit FakeRequest(Watch& watch) : watch_(watch) { ++watch_.requests; }
  void run(const std::vector<clouds::Input>& inputs, const std::vector<clouds::Output>& outputs,
           const clouds::Stream& stream) override {
    watch_.last_stream = stream.given ? stream.handle : nullptr;
    watch_.all_on_device = inputs[0].on_device && outputs[0].on_device;
    watch_.last_input = inputs[0].data;
    watch_.last_output = outputs[0].data;
    const auto* image = static_cast<const std::uint8_t*>(inputs[0].data);
    auto* labels = static_cast<std::uint8_t*>(outputs[0].data);
    for (std::int64_t i = 0; i < clouds::elements(outputs[0].shape); ++i) labels[i] = image[3 * i] % kClasses;
    if (outputs.size() > 1 && outputs[1].data != nullptr) {
      auto* scores = static_cast<float*>(outputs[1].data);
      for (std::int64_t i = 0; i < clouds::elements(outputs[1].shape); ++i) scores[i] = 0.25F;
    }
    watch_.pass();
  }

 private:
  Watch& watch_;
};

class FakeGraph : public clouds::Graph {
 public:
  explicit FakeGraph(Watch& watch) : watch_(watch) {}
  std::unique_ptr<clouds::Request> request() override { return std::make_unique<FakeRequest>(watch_); }
  std::string device() const override { return "none"; }
  bool on_gpu() const override { return watch_.on_gpu; }

 private:
  Watch& watch_;
};

std::unique_ptr<clouds::Segmenter::Body> make(Watch& watch, const clouds::Options& options = {}, bool scores = false) {
  clouds::SegmenterBundle bundle;
  bundle.facts.height = kHeight;
  bundle.facts.width = kWidth;
  bundle.facts.mean_color = {1, 2, 3};
  bundle.facts.classes.assign(kClasses, "a class");
  bundle.facts.inputs = {{"image", "uint8", {-1, kHeight, kWidth, 3}}};
  bundle.facts.outputs = {{"labels", "uint8", {-1, kHeight, kWidth}}};
  if (scores) bundle.facts.outputs.push_back({"scores", "float32", {-1, kClasses, kHeight / 4, kWidth / 4}});
  return std::make_unique<clouds::Segmenter::Body>(bundle, std::make_unique<FakeGraph>(watch), nullptr, options);
}

using Bytes = std::vector<std::uint8_t>;

Bytes picture(std::size_t size, unsigned seed) {
  Bytes out(size);
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<std::uint8_t>((i * 31 + seed * 17) ^ (i >> 5));
  return out;
}

void the_very_size_is_not_copied() {
  Watch watch;
  const auto body = make(watch);
  const Bytes image = picture(2 * kHeight * kWidth * 3, 1);
  Bytes labels(2 * kHeight * kWidth);
  const std::size_t pixels = kHeight * kWidth;
  const clouds::ImageView images[] = {{image.data(), kHeight, kWidth}, {image.data() + 3 * pixels, kHeight, kWidth}};
  const clouds::MapView maps[] = {{labels.data(), kHeight, kWidth}, {labels.data() + pixels, kHeight, kWidth}};
  body->segment(images, maps, nullptr, 2);
  CHECK(watch.last_input == image.data());
  CHECK(watch.last_output == labels.data());
  bool right = true;
  for (std::size_t i = 0; i < labels.size(); ++i) right = right && labels[i] == image[3 * i] % kClasses;
  CHECK(right);
}

void strides_and_formats_give_the_same() {
  Watch watch;
  const auto body = make(watch);
  const Bytes image = picture(kHeight * kWidth * 3, 2);
  Bytes want(kHeight * kWidth);
  const clouds::ImageView plain{image.data(), kHeight, kWidth};
  const clouds::MapView plain_map{want.data(), kHeight, kWidth};
  body->segment(&plain, &plain_map, nullptr, 1);
  for (const int format : {0, 1, 2, 3}) {
    const int channels = format < 2 ? 3 : 4;
    const std::ptrdiff_t stride = kWidth * channels + 5, map_stride = kWidth + 3;
    Bytes padded(static_cast<std::size_t>(stride) * kHeight, 99),
        out(static_cast<std::size_t>(map_stride) * kHeight, 200);
    for (int y = 0; y < kHeight; ++y) {
      for (int x = 0; x < kWidth; ++x) {
        for (int c = 0; c < 3; ++c) {
          const int to = format % 2 == 1 ? 2 - c : c;
          padded[static_cast<std::size_t>(y * stride + x * channels + to)] =
              image[static_cast<std::size_t>((y * kWidth + x) * 3 + c)];
        }
      }
    }
    const clouds::ImageView view{padded.data(), kHeight, kWidth, stride, static_cast<clouds::PixelFormat>(format)};
    const clouds::MapView map{out.data(), kHeight, kWidth, map_stride};
    body->segment(&view, &map, nullptr, 1);
    bool right = true, untouched = true;
    for (int y = 0; y < kHeight; ++y) {
      for (int x = 0; x < kWidth; ++x)
        right = right &&
                out[static_cast<std::size_t>(y * map_stride + x)] == want[static_cast<std::size_t>(y * kWidth + x)];
      for (int x = kWidth; x < map_stride; ++x)
        untouched = untouched && out[static_cast<std::size_t>(y * map_stride + x)] == 200;
    }
    CHECK(right);
    CHECK(untouched);
  }
}

void what_cannot_be_an_image_is_refused() {
  Watch watch;
  const auto body = make(watch);
  const Bytes image = picture(kHeight * kWidth * 3, 3);
  Bytes labels(kHeight * kWidth);
  const auto refused = [&](clouds::ImageView view, clouds::MapView map, clouds::MapView trust = {}) {
    try {
      body->segment(&view, &map, &trust, 1);
      return false;
    } catch (const clouds::Error& error) {
      return !error.hint().empty();
    }
  };
  const clouds::MapView map{labels.data(), kHeight, kWidth};
  CHECK(refused({nullptr, kHeight, kWidth}, map));
  CHECK(refused({image.data(), 0, kWidth}, map));
  CHECK(refused({image.data(), kHeight, -1}, map));
  CHECK(refused({image.data(), 1 << 20, 1 << 20}, map));
  for (const std::ptrdiff_t stride : {std::ptrdiff_t{5}, std::ptrdiff_t{-5}, PTRDIFF_MIN, PTRDIFF_MAX, PTRDIFF_MAX / 2,
                                      PTRDIFF_MIN / kHeight, PTRDIFF_MAX / kHeight, std::ptrdiff_t{1} << 31}) {
    CHECK(refused({image.data(), kHeight, kWidth, stride}, map));
    CHECK(refused({image.data(), kHeight, kWidth}, {labels.data(), kHeight, kWidth, stride}));
  }
  const auto* high = reinterpret_cast<const std::uint8_t*>(UINTPTR_MAX - 1000);  // rows would go beyond the last address
  CHECK(refused({high, kHeight, kWidth}, map));
  const auto* low = reinterpret_cast<const std::uint8_t*>(std::uintptr_t{1000});
  CHECK(refused({low, kHeight, kWidth, -3 * kWidth}, map));
  CHECK(refused({image.data(), kHeight, kWidth, 0, static_cast<clouds::PixelFormat>(7)}, map));
  CHECK(refused({image.data(), kHeight, kWidth}, {labels.data(), kHeight, kWidth - 1}));
  CHECK(refused({image.data(), kHeight, kWidth}, {labels.data(), kHeight, kWidth, kWidth - 1}));
  CHECK(refused({image.data(), kHeight, kWidth}, {nullptr, kHeight, kWidth}));
  CHECK(refused({image.data(), kHeight, kWidth}, map, map));  // no scores
  CHECK(watch.requests == 0);
}

void a_gpus_memory_is_handed_through() {
  Watch watch;
  const auto plain = make(watch);
  const Bytes images = picture(2 * kHeight * kWidth * 3, 8);
  Bytes labels(2 * kHeight * kWidth);
  const auto refused = [&](clouds::Segmenter::Body& body, const std::uint8_t* in, std::uint8_t* out, float* scores) {
    try {
      body.segment_on_device(in, out, 2, nullptr, scores);
      return false;
    } catch (const clouds::Error& error) {
      return !error.hint().empty();
    }
  };
  CHECK(refused(*plain, images.data(), labels.data(), nullptr));  // runs on no GPU
  watch.on_gpu = true;
  int stream = 0;
  std::vector<float> scores(2 * kClasses * kHeight * kWidth / 16, 1.0F);
  plain->segment_on_device(images.data(), labels.data(), 2, &stream, nullptr);
  CHECK(watch.last_input == images.data() && watch.last_output == labels.data() && watch.last_stream == &stream);
  CHECK(watch.all_on_device);
  CHECK(refused(*plain, nullptr, labels.data(), nullptr));
  CHECK(refused(*plain, images.data(), nullptr, nullptr));
  CHECK(refused(*plain, images.data(), labels.data(), scores.data()));  // gives none
  plain->segment_on_device(nullptr, nullptr, 0, nullptr, nullptr);
  const auto scored = make(watch, {}, true);
  scored->segment_on_device(images.data(), labels.data(), 2, nullptr, nullptr);
  CHECK(scores.back() == 1.0F);
  scored->segment_on_device(images.data(), labels.data(), 2, nullptr, scores.data());
  CHECK(scores.back() == 0.25F);
  const clouds::ImageView view{images.data(), kHeight, kWidth};
  const clouds::MapView map{labels.data(), kHeight, kWidth};
  plain->segment(&view, &map, nullptr, 1);
  CHECK(!watch.all_on_device && watch.last_stream == nullptr);
}

void rows_may_run_upwards() {
  Watch watch;
  const auto body = make(watch);
  const Bytes image = picture(kHeight * kWidth * 3, 9);
  Bytes labels(kHeight * kWidth), turned(kHeight * kWidth);
  const clouds::ImageView view{image.data(), kHeight, kWidth};
  const clouds::MapView map{labels.data(), kHeight, kWidth};
  body->segment(&view, &map, nullptr, 1);
  const clouds::ImageView up{image.data() + (kHeight - 1) * kWidth * 3, kHeight, kWidth, -3 * kWidth};
  const clouds::MapView up_map{turned.data() + (kHeight - 1) * kWidth, kHeight, kWidth, -kWidth};
  body->segment(&up, &up_map, nullptr, 1);
  CHECK(labels == turned);
}

void absurd_options_are_refused() {
  const auto refused = [](clouds::Options options) {
    try {
      clouds::checked(options);
      return false;
    } catch (const clouds::Error& error) {
      return !error.hint().empty();
    }
  };
  clouds::Options options;
  options.backend = "onnxruntime";
  CHECK(!refused(options));
  for (const char* precision : {"fp32", "f32", "bf16"}) {
    options.precision = precision;
    CHECK(!refused(options));
  }
  options.precision = "f32";
  CHECK(clouds::checked(options).precision == "fp32");
  auto changed = options;
  changed.precision = "fp8";
  CHECK(refused(changed));
  changed = options, changed.threads = INT_MAX;
  CHECK(refused(changed));
  changed = options, changed.threads = -1;
  CHECK(refused(changed));
  changed = options, changed.workers = SIZE_MAX;
  CHECK(refused(changed));
  changed = options, changed.batch = -1;
  CHECK(refused(changed));
  changed = options, changed.backend = "none";
  CHECK(refused(changed));
  CHECK(clouds::cuda_index("cpu") == -1 && clouds::cuda_index("cuda") == 0 && clouds::cuda_index("cuda:0") == 0);
  CHECK(clouds::cuda_index("cuda:7") == 7 && clouds::cuda_index("cuda:12") == 12);
  for (const char* wrong : {"cuda:", "cuda:-1", "cuda:x", "cuda:1x", "cuda:99999999999", "cuda1", ""}) {
    CHECK(clouds::cuda_index(wrong) == -1);
  }
}

void trust_is_the_best_share() {
  Watch watch;
  const auto body = make(watch, {}, true);
  const Bytes image = picture(50 * 40 * 3, 4);
  Bytes labels(50 * 40), trust(50 * 40);
  const clouds::ImageView view{image.data(), 50, 40};
  const clouds::MapView map{labels.data(), 50, 40}, sure{trust.data(), 50, 40};
  body->segment(&view, &map, &sure, 1);
  CHECK(trust[0] == 13 && trust.back() == 13);  // 255 / 19
}

void many_threads_get_a_request_each() {
  Watch watch;
  const auto body = make(watch);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      const int height = kHeight + static_cast<int>(t), width = kWidth - 3 * static_cast<int>(t);
      const Bytes image = picture(static_cast<std::size_t>(height * width * 3), t);
      Bytes first(static_cast<std::size_t>(height * width)), again(first.size());
      const clouds::ImageView view{image.data(), height, width};
      const clouds::MapView one{first.data(), height, width}, two{again.data(), height, width};
      body->segment(&view, &one, nullptr, 1);
      for (int i = 0; i < 200; ++i) {
        body->segment(&view, &two, nullptr, 1);
        if (first != again) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(watch.requests >= 1 && watch.requests <= 8);
}

void a_limit_of_requests_holds() {
  Watch watch;
  clouds::Options options;
  options.requests = 2;
  const auto body = make(watch, options);
  const Bytes image = picture(kHeight * kWidth * 3, 5);
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      Bytes labels(kHeight * kWidth);
      const clouds::ImageView view{image.data(), kHeight, kWidth};
      const clouds::MapView map{labels.data(), kHeight, kWidth};
      for (int i = 0; i < 50; ++i) body->segment(&view, &map, nullptr, 1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(watch.requests <= 2);
  CHECK(watch.most_running <= 2);
}

void a_full_queue_holds_its_callers() {
  Watch watch;
  std::atomic<int> done{0}, failed{0};
  {
    clouds::Queue queue(2, 3);
    watch.set_open(false);
    const auto job = [&] {
      watch.pass();
      ++done;
    };
    for (int i = 0; i < 2; ++i) queue.put(job);
    watch.wait_running(2);  // both workers are held
    for (int i = 0; i < 3; ++i) CHECK(queue.try_put(job));
    CHECK(!queue.try_put(job));
    std::atomic<bool> through{false};
    std::thread caller([&] {
      queue.put(job);
      through = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    CHECK(!through);
    CHECK(done == 0);
    watch.set_open(true);
    caller.join();
    CHECK(through);
  }
  CHECK(done == 6);  // the end waits for all
  CHECK(failed == 0);
}

void faults_reach_who_asked() {
  Watch watch;
  watch.fail = true;
  const auto body = make(watch);
  const Bytes image = picture(kHeight * kWidth * 3, 6);
  Bytes labels(kHeight * kWidth);
  const clouds::ImageView view{image.data(), kHeight, kWidth};
  const clouds::MapView map{labels.data(), kHeight, kWidth};
  int caught = 0;
  for (int i = 0; i < 3; ++i) {
    try {
      body->segment(&view, &map, nullptr, 1);
    } catch (const clouds::Error& error) {
      caught += error.message() == "the graph failed";
    }
  }
  CHECK(caught == 3);
  CHECK(watch.requests == 1);  // a request that failed is given back
}

}  // namespace

int main() {
  the_very_size_is_not_copied();
  strides_and_formats_give_the_same();
  what_cannot_be_an_image_is_refused();
  a_gpus_memory_is_handed_through();
  rows_may_run_upwards();
  absurd_options_are_refused();
  trust_is_the_best_share();
  many_threads_get_a_request_each();
  a_limit_of_requests_holds();
  a_full_queue_holds_its_callers();
  faults_reach_who_asked();
  std::printf(failures == 0 ? "unit: ok\n" : "unit: %d FAILED\n", failures);
  return failures == 0 ? 0 : 1;
}
