// OpenVINO, tuned as clouds_deploy.backends.openvino.session: for latency, in the precision that was asked for.
#include <algorithm>
#include <map>
#include <mutex>
#include <openvino/openvino.hpp>
#include <optional>
#include <utility>

#include "backend.hpp"
#include "clouds/error.hpp"
#include "openvino_attention.hpp"
#include "openvino_sums.hpp"

namespace clouds {
namespace {

ov::element::Type type_of(const std::string& dtype) {
  if (dtype == "uint8") return ov::element::u8;
  if (dtype == "int32") return ov::element::i32;
  if (dtype == "int64") return ov::element::i64;
  if (dtype == "float16") return ov::element::f16;
  return ov::element::f32;
}

ov::Shape sizes(const Shape& shape) { return {shape.begin(), shape.end()}; }

using Ports = std::vector<ov::Output<const ov::Node>>;

// A tensor's memory is set only when it moved, so that a caller that keeps its buffers saves the call.
struct Bound {
  const void* data = nullptr;
  Shape shape;
  bool moves_to(const void* other, const Shape& to) {
    if (data == other && shape == to) return false;
    data = other;
    shape = to;
    return true;
  }
};

// A graph compiled for any sizes, or for one batch.
struct Plan {
  ov::CompiledModel model;
  Ports inputs, outputs;
};

// One inference at a time through a plan.
class Lane {
 public:
  explicit Lane(Plan& plan)
      : plan_(plan), request_(plan.model.create_infer_request()), in_(plan.inputs.size()), out_(plan.outputs.size()) {}

  void run(const std::vector<Input>& inputs, const std::vector<Output>& outputs) {
    try {
      for (std::size_t i = 0; i < in_.size(); ++i) {
        const auto& [data, shape, on_device] = inputs[i];
        if (on_device) throw Error("openvino takes no memory of a GPU", "give pixels in the host's memory");
        if (!in_[i].moves_to(data, shape)) continue;
        request_.set_tensor(plan_.inputs[i], ov::Tensor(plan_.inputs[i].get_element_type(), sizes(shape), data));
      }
      for (std::size_t i = 0; i < out_.size(); ++i) {
        const auto& [data, shape, on_device] = outputs[i];
        if (on_device) throw Error("openvino takes no memory of a GPU", "give memory of the host");
        if (!out_[i].moves_to(data, shape)) continue;
        request_.set_tensor(plan_.outputs[i], ov::Tensor(plan_.outputs[i].get_element_type(), sizes(shape), data));
      }
      request_.infer();
    } catch (const std::exception& error) {
      std::fill(in_.begin(), in_.end(), Bound{});
      std::fill(out_.begin(), out_.end(), Bound{});
      throw Error("openvino failed: " + first_line(error.what()), "run clouds_selftest on the bundle");
    }
  }

 private:
  Plan& plan_;
  ov::InferRequest request_;
  std::vector<Bound> in_, out_;
};

// Plans for the batch that nearly every call has, where one was told: only with fixed sizes does OpenVINO see that
// turning channels around a convolution moves nothing in memory. Another batch is planned for when it comes.
class OpenVinoGraph : public Graph {
 public:
  OpenVinoGraph(GraphFile file, const Options& options) : file_(std::move(file)) {
    device_ = options.device;
    std::transform(device_.begin(), device_.end(), device_.begin(),
                   [](char c) { return static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c); });
    const std::vector<std::string> known = core_.get_available_devices();
    if (std::find(known.begin(), known.end(), device_) == known.end()) {
      std::string all;
      for (const std::string& one : known) all += (all.empty() ? "" : ", ") + one;
      throw Error("openvino has no device `" + options.device + "`", "known: " + all);
    }
    settings_ = {{"INFERENCE_PRECISION_HINT", options.precision == "fp32" ? "f32" : options.precision},
                 {"PERFORMANCE_HINT", "LATENCY"}};
    if (options.threads > 0) settings_["INFERENCE_NUM_THREADS"] = options.threads;
    named_ = options.device + (options.precision == "fp32" ? "" : " " + options.precision);
    const bool only_rows = std::all_of(file_.inputs.begin(), file_.inputs.end(), [](const TensorSpec& spec) {
      return !spec.shape.empty() && spec.shape.front() < 0 && std::count(spec.shape.begin(), spec.shape.end(), -1) == 1;
    });
    if (!only_rows) file_.batch = 0;
    plan(file_.batch > 0);
  }

  bool as_told(const std::vector<Input>& inputs) const {
    return file_.batch > 0 && std::all_of(inputs.begin(), inputs.end(), [this](const Input& input) {
      return input.shape.front() == file_.batch;
    });
  }

  Plan& plan(bool told) {
    const std::lock_guard<std::mutex> guard(lock_);
    std::unique_ptr<Plan>& made = told ? told_ : free_;
    if (made == nullptr) made = compile(told);
    return *made;
  }

  std::unique_ptr<Request> request() override;
  std::string device() const override { return named_; }

 private:
  std::unique_ptr<Plan> compile(bool told) {
    auto made = std::make_unique<Plan>();
    try {
      const std::shared_ptr<ov::Model> model = core_.read_model(file_.path.string());
      if (told) {
        std::map<std::string, ov::PartialShape> shapes;
        for (const TensorSpec& spec : file_.inputs) {
          ov::PartialShape shape(std::vector<ov::Dimension>(spec.shape.begin(), spec.shape.end()));
          shape[0] = file_.batch;
          shapes[spec.name] = shape;
        }
        model->reshape(shapes);
        sum_gathered_rows(model);
        cut_attention(model);
      }
      made->model = core_.compile_model(model, device_, settings_);
      for (const TensorSpec& spec : file_.inputs) made->inputs.push_back(checked(made->model.input(spec.name), spec));
      for (const TensorSpec& spec : file_.outputs) made->outputs.push_back(checked(made->model.output(spec.name), spec));
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error("openvino refuses " + file_.path.string() + ": " + first_line(error.what()), "export the run again");
    }
    return made;
  }

  static ov::Output<const ov::Node> checked(ov::Output<const ov::Node> port, const TensorSpec& spec) {
    if (port.get_element_type() != type_of(spec.dtype)) {
      throw Error(
          "`" + spec.name + "` is " + port.get_element_type().get_type_name() + " in the graph, not " + spec.dtype,
          "export the run again");
    }
    Shape own;
    for (const ov::Dimension& size : port.get_partial_shape()) own.push_back(size.is_static() ? size.get_length() : -1);
    check_shape(spec, own);
    return port;
  }

  GraphFile file_;
  ov::Core core_;
  ov::AnyMap settings_;
  std::string device_, named_;
  std::mutex lock_;
  std::unique_ptr<Plan> told_, free_;
};

class OpenVinoRequest : public Request {
 public:
  explicit OpenVinoRequest(OpenVinoGraph& graph) : graph_(graph) {}

  void run(const std::vector<Input>& inputs, const std::vector<Output>& outputs, const Stream&) override {
    const bool told = graph_.as_told(inputs);
    std::optional<Lane>& lane = told ? told_ : free_;
    if (!lane) lane.emplace(graph_.plan(told));
    lane->run(inputs, outputs);
  }

 private:
  OpenVinoGraph& graph_;
  std::optional<Lane> told_, free_;
};

std::unique_ptr<Request> OpenVinoGraph::request() { return std::make_unique<OpenVinoRequest>(*this); }

}  // namespace

std::unique_ptr<Graph> open_openvino(const GraphFile& file, const Options& options) {
  return std::make_unique<OpenVinoGraph>(file, options);
}

}  // namespace clouds
