#include "openvino_attention.hpp"

#include <algorithm>
#include <cstdint>
#include <openvino/opsets/opset13.hpp>
#include <optional>
#include <vector>

namespace clouds {
namespace {

namespace op = ov::opset13;
using Value = ov::Output<ov::Node>;

// softmax(query * key + rows + columns) * value: the operands, and how many heads, queries and keys.
struct Attention {
  Value query, key, rows, columns, value;
  std::size_t heads, queries, keys;
};

std::shared_ptr<op::MatMul> plain_product(const std::shared_ptr<ov::Node>& node) {
  const auto product = ov::as_type_ptr<op::MatMul>(node);
  return product == nullptr || product->get_transpose_a() || product->get_transpose_b() ? nullptr : product;
}

bool starts_with(const ov::Shape& shape, std::initializer_list<std::size_t> first) {
  return std::equal(first.begin(), first.end(), shape.begin());
}

std::optional<Attention> attention(const std::shared_ptr<ov::Node>& node) {
  const auto product = plain_product(node);
  if (product == nullptr) return std::nullopt;
  const auto shares = ov::as_type_ptr<op::Softmax>(product->input_value(0).get_node_shared_ptr());
  if (shares == nullptr || (shares->get_axis() != -1 && shares->get_axis() != 3)) return std::nullopt;
  const auto scores = ov::as_type_ptr<op::Add>(shares->input_value(0).get_node_shared_ptr());
  if (scores == nullptr) return std::nullopt;
  const auto similar = plain_product(scores->input_value(0).get_node_shared_ptr());
  const auto bias = ov::as_type_ptr<op::Reshape>(scores->input_value(1).get_node_shared_ptr());
  if (similar == nullptr || bias == nullptr) return std::nullopt;
  const auto both = ov::as_type_ptr<op::Add>(bias->input_value(0).get_node_shared_ptr());
  if (both == nullptr) return std::nullopt;
  const Value query = similar->input_value(0), key = similar->input_value(1);
  const Value rows = both->input_value(0), columns = both->input_value(1), value = product->input_value(1);
  for (const Value& each : {query, key, rows, columns, value, bias->output(0)}) {
    if (each.get_partial_shape().is_dynamic()) return std::nullopt;
  }
  const ov::Shape whole = bias->get_output_shape(0);
  if (whole.size() != 4) return std::nullopt;
  for (const Value& each : {query, key, value}) {
    if (each.get_shape().size() != 4) return std::nullopt;
  }
  if (rows.get_shape().size() != 5 || columns.get_shape().size() != 5) return std::nullopt;
  for (const Value& each : {query, rows, columns}) {
    if (!starts_with(each.get_shape(), {whole[0], whole[1], whole[2]})) return std::nullopt;
  }
  if (!starts_with(key.get_shape(), {whole[0], whole[1]})) return std::nullopt;
  if (!starts_with(value.get_shape(), {whole[0], whole[1], whole[3]})) return std::nullopt;
  return Attention{query, key, rows, columns, value, whole[1], whole[2], whole[3]};
}

ov::OutputVector split(const Value& value, std::int64_t axis, std::size_t parts) {
  const auto along = op::Constant::create(ov::element::i64, {}, {axis});
  return std::make_shared<op::Split>(value, along, parts)->outputs();
}

Value in_parts(const Attention& whole, std::size_t part) {
  const std::size_t limit = std::max<std::size_t>(1, part / (4 * whole.keys));
  std::size_t blocks = 1;
  while (whole.queries % blocks != 0 || whole.queries / blocks > limit) ++blocks;
  const auto shape = op::Constant::create(
      ov::element::i64, {4},
      std::vector<std::int64_t>{-1, 1, static_cast<std::int64_t>(whole.queries / blocks),
                                static_cast<std::int64_t>(whole.keys)});
  const ov::OutputVector queries = split(whole.query, 1, whole.heads), keys = split(whole.key, 1, whole.heads),
                         rows = split(whole.rows, 1, whole.heads), columns = split(whole.columns, 1, whole.heads),
                         values = split(whole.value, 1, whole.heads);
  ov::OutputVector heads;
  for (std::size_t head = 0; head < whole.heads; ++head) {
    const ov::OutputVector q = split(queries[head], 2, blocks), r = split(rows[head], 2, blocks),
                           c = split(columns[head], 2, blocks);
    ov::OutputVector seen;
    for (std::size_t block = 0; block < blocks; ++block) {
      const auto bias = std::make_shared<op::Reshape>(std::make_shared<op::Add>(r[block], c[block]), shape, false);
      const auto scores =
          std::make_shared<op::Add>(std::make_shared<op::MatMul>(q[block], keys[head], false, false), bias);
      seen.push_back(
          std::make_shared<op::MatMul>(std::make_shared<op::Softmax>(scores, -1), values[head], false, false));
    }
    heads.push_back(blocks > 1 ? std::make_shared<op::Concat>(seen, 2)->output(0) : seen[0]);
  }
  return std::make_shared<op::Concat>(heads, 1);
}

}  // namespace

std::size_t cut_attention(const std::shared_ptr<ov::Model>& model, std::size_t large, std::size_t part) {
  std::size_t count = 0;
  for (const std::shared_ptr<ov::Node>& node : model->get_ordered_ops()) {
    const std::optional<Attention> found = attention(node);
    if (!found || 4 * found->heads * found->queries * found->keys < large) continue;
    node->output(0).replace(in_parts(*found, part));
    ++count;
  }
  if (count > 0) model->validate_nodes_and_infer_types();
  return count;
}

}  // namespace clouds
