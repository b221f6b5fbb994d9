// OpenVINO, tuned as clouds_deploy.runtime.openvino_session: for latency, in the precision that was asked for.
#include <algorithm>
#include <openvino/openvino.hpp>
#include <utility>

#include "backend.hpp"
#include "clouds/error.hpp"

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

// A tensor's memory is only set when it moved: a caller that keeps its buffers pays nothing.
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

class OpenVinoRequest : public Request {
 public:
  OpenVinoRequest(ov::CompiledModel& model, const Ports& inputs, const Ports& outputs)
      : request_(model.create_infer_request()),
        inputs_(inputs),
        outputs_(outputs),
        bound_in_(inputs.size()),
        bound_out_(outputs.size()) {}

  void run(const std::vector<Input>& inputs, const std::vector<Output>& outputs) override {
    try {
      for (std::size_t i = 0; i < inputs_.size(); ++i) {
        const auto& [data, shape] = inputs[i];
        if (!bound_in_[i].moves_to(data, shape)) continue;
        request_.set_tensor(inputs_[i], ov::Tensor(inputs_[i].get_element_type(), sizes(shape), data));
      }
      for (std::size_t i = 0; i < outputs_.size(); ++i) {
        const auto& [data, shape] = outputs[i];
        if (!bound_out_[i].moves_to(data, shape)) continue;
        request_.set_tensor(outputs_[i], ov::Tensor(outputs_[i].get_element_type(), sizes(shape), data));
      }
      request_.infer();
    } catch (const std::exception& error) {
      std::fill(bound_in_.begin(), bound_in_.end(), Bound{});
      std::fill(bound_out_.begin(), bound_out_.end(), Bound{});
      throw Error("openvino failed: " + first_line(error.what()), "run clouds_selftest on the bundle");
    }
  }

 private:
  ov::InferRequest request_;
  const Ports &inputs_, &outputs_;
  std::vector<Bound> bound_in_, bound_out_;
};

class OpenVinoGraph : public Graph {
 public:
  OpenVinoGraph(const GraphFile& file, const Options& options) {
    std::string device = options.device;
    std::transform(device.begin(), device.end(), device.begin(),
                   [](char c) { return static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c); });
    const std::vector<std::string> known = core_.get_available_devices();
    if (std::find(known.begin(), known.end(), device) == known.end()) {
      std::string all;
      for (const std::string& one : known) all += (all.empty() ? "" : ", ") + one;
      throw Error("openvino has no device `" + options.device + "`", "known: " + all);
    }
    ov::AnyMap settings{{"INFERENCE_PRECISION_HINT", options.precision}, {"PERFORMANCE_HINT", "LATENCY"}};
    if (options.threads > 0) settings["INFERENCE_NUM_THREADS"] = options.threads;
    try {
      model_ = core_.compile_model(core_.read_model(file.path.string()), device, settings);
      for (const TensorSpec& spec : file.inputs) inputs_.push_back(checked(model_.input(spec.name), spec));
      for (const TensorSpec& spec : file.outputs) outputs_.push_back(checked(model_.output(spec.name), spec));
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error("openvino refuses " + file.path.string() + ": " + first_line(error.what()), "export the run again");
    }
    device_ = device + " " + options.precision;
  }

  std::unique_ptr<Request> request() override { return std::make_unique<OpenVinoRequest>(model_, inputs_, outputs_); }
  std::string device() const override { return device_; }

 private:
  static ov::Output<const ov::Node> checked(ov::Output<const ov::Node> port, const TensorSpec& spec) {
    if (port.get_element_type() != type_of(spec.dtype)) {
      throw Error(
          "`" + spec.name + "` is " + port.get_element_type().get_type_name() + " in the graph, not " + spec.dtype,
          "export the run again");
    }
    return port;
  }

  ov::Core core_;
  ov::CompiledModel model_;
  Ports inputs_, outputs_;
  std::string device_;
};

}  // namespace

std::unique_ptr<Graph> open_openvino(const GraphFile& file, const Options& options) {
  return std::make_unique<OpenVinoGraph>(file, options);
}

}  // namespace clouds
