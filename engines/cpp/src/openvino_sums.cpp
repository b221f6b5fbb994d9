#include "openvino_sums.hpp"

#include <cstdint>
#include <openvino/opsets/opset13.hpp>
#include <optional>
#include <vector>

namespace clouds {
namespace {

namespace op = ov::opset13;

struct Sum {
  ov::Output<ov::Node> table, index, weights;  // (R, D), (M * K), (M, 1, K)
};

std::optional<Sum> gathered(const std::shared_ptr<ov::Node>& node) {
  const auto product = ov::as_type_ptr<op::MatMul>(node);
  if (product == nullptr || product->get_transpose_a() || product->get_transpose_b()) return std::nullopt;
  const ov::Output<ov::Node> weights = product->input_value(0), rows = product->input_value(1);
  const auto turned = ov::as_type_ptr<op::Reshape>(rows.get_node_shared_ptr());
  if (turned == nullptr) return std::nullopt;
  const auto gather = ov::as_type_ptr<ov::op::util::GatherBase>(turned->input_value(0).get_node_shared_ptr());
  if (gather == nullptr) return std::nullopt;
  Sum sum{gather->input_value(0), gather->input_value(1), weights};
  for (const auto& value : {sum.table, sum.index, sum.weights, rows}) {
    if (value.get_partial_shape().is_dynamic()) return std::nullopt;
  }
  const ov::Shape table = sum.table.get_shape(), groups = weights.get_shape();
  if (table.size() != 2 || sum.index.get_shape().size() != 1 || groups.size() != 3 || groups[1] != 1) {
    return std::nullopt;
  }
  if (rows.get_shape() != ov::Shape{groups[0], groups[2], table[1]}) return std::nullopt;
  return sum;
}

}  // namespace

void sum_gathered_rows(const std::shared_ptr<ov::Model>& model) {
  bool any = false;
  for (const std::shared_ptr<ov::Node>& node : model->get_ordered_ops()) {
    const std::optional<Sum> sum = gathered(node);
    if (!sum) continue;
    const auto size = static_cast<std::int64_t>(sum->weights.get_shape()[2]);
    const auto groups = op::Constant::create(ov::element::i64, {2}, std::vector<std::int64_t>{-1, size});
    const auto index = std::make_shared<op::Reshape>(sum->index, groups, false);
    const auto weights = std::make_shared<op::Reshape>(sum->weights, groups, false);
    const auto sums = std::make_shared<op::EmbeddingBagPackedSum>(sum->table, index, weights);
    const auto axis = op::Constant::create(ov::element::i64, {1}, std::vector<std::int64_t>{1});
    node->output(0).replace(std::make_shared<op::Unsqueeze>(sums, axis)->output(0));
    any = true;
  }
  if (any) model->validate_nodes_and_infer_types();
}

}  // namespace clouds
