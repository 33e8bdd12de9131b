#include "c_api/op_json.h"

#include "config/json_text.h"

namespace fathom {
namespace {

/// Our own texts: the tables', and reasons made of them. They are UTF-8, so the question mark is never seen.
std::string quote(std::string_view text) {
  const auto json = json_string(text);
  return json.ok() ? json.value() : "\"?\"";
}

/// Collects the members of one object: {"key": value, ...}.
class JsonObject {
 public:
  JsonObject& value(const char* key, const std::string& json) {
    text_ += (text_.empty() ? "{" : ", ") + quote(key) + ": " + json;
    return *this;
  }
  JsonObject& string(const char* key, std::string_view text) { return value(key, quote(text)); }
  std::string finish() const { return text_.empty() ? "{}" : text_ + "}"; }

 private:
  std::string text_;
};

template <class Items, class ToJson>
std::string json_array(const Items& items, ToJson&& to_json) {
  std::string text = "[";
  for (const auto& item : items) text += (text.size() > 1 ? ", " : "") + to_json(item);
  return text + "]";
}

const char* kind_name(FieldKind kind) noexcept {
  switch (kind) {
    case FieldKind::integer: return "integer";
    case FieldKind::capacity: return "capacity";
    case FieldKind::real: return "real";
    case FieldKind::word:
    case FieldKind::dtype:
    case FieldKind::numerics: return "word";
  }
  return "unknown";
}

std::string arg_json(const ArgSpec& arg) {
  return JsonObject()
      .string("name", arg.name)
      .string("role", name_of(arg.role))
      .value("optional", is_optional(arg.role) ? "true" : "false")
      .string("shape", arg.shape)
      .string("dtypes", arg.dtypes)
      .string("doc", arg.doc)
      .finish();
}

std::string field_json(const ProblemField& field, const void* defaults) {
  JsonObject object;
  object.string("name", field.name).string("kind", kind_name(field.kind)).string("default", field_text(field, defaults));
  if (field.most > field.least) {
    object.value("least", std::to_string(field.least)).value("most", std::to_string(field.most));
  }
  if (const auto words = field_words(field); !words.empty()) object.value("words", json_array(words, quote));
  if (field.group != nullptr) object.string("group", field.group);
  return object.string("doc", field.doc).finish();
}

}  // namespace

std::string op_json(const OpSpec& op) {
  const ProblemSpec& problem = *op.problem;
  return JsonObject()
      .string("name", op.name)
      .string("stage", op.stage)
      .string("summary", op.summary)
      .string("formula", op.formula)
      .string("source", op.source)
      .value("args", json_array(op.args, arg_json))
      .value("fields", json_array(problem.fields, [&](const ProblemField& field) { return field_json(field, problem.defaults); }))
      .finish();
}

std::string device_json(const Device& device) {
  const DeviceLimits& limits = device.limits();
  return JsonObject()
      .string("kind", device.kind() == DeviceKind::cpu ? "cpu" : "cuda")
      .value("index", std::to_string(device.index()))
      .value("num_threads", std::to_string(device.num_threads()))
      .value("compute_capability", std::to_string(limits.compute_capability))
      .value("num_multiprocessors", std::to_string(limits.num_multiprocessors))
      .value("shared_bytes_per_block", std::to_string(limits.shared_bytes_per_block))
      .value("l2_bytes", std::to_string(limits.l2_bytes))
      .value("memory_bytes", std::to_string(limits.memory_bytes))
      .finish();
}

std::string candidates_json(std::span<const Candidate> list) {
  return json_array(list, [](const Candidate& candidate) {
    return JsonObject().string("implementation", candidate.implementation).string("reason", candidate.reason).finish();
  });
}

}  // namespace fathom
