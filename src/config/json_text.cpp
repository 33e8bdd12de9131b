// The JSON library between our checks: a stream buffer in front of it, a depth count behind it.
#include "config/json_text.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <istream>
#include <nlohmann/json.hpp>
#include <streambuf>

namespace fathom {
namespace {

using Json = nlohmann::json;

/// Hands the text to the JSON library in pieces that have passed the checks it does not make.
class CheckedBuffer : public std::streambuf {
 public:
  CheckedBuffer(const std::string& what, const JsonSource& source, const JsonLimits& limits)
      : what_(what), source_(source), limits_(limits) {}
  const Status& status() const { return status_; }

 protected:
  int_type underflow() override {
    if (!status_.ok()) return traits_type::eof();
    auto count = source_(buffer_.data(), buffer_.size());
    status_ = count.ok() ? check(count.value()) : count.status();
    if (!status_.ok() || count.value() == 0) return traits_type::eof();
    setg(buffer_.data(), buffer_.data(), buffer_.data() + count.value());
    return traits_type::to_int_type(buffer_[0]);
  }

 private:
  Status check(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const char c = buffer_[i];
      if (c == '\0') return Status::invalid("%s holds a zero byte", what_.c_str());
      if (in_string_) {
        in_string_ = escaped_ || c != '"';
        escaped_ = !escaped_ && c == '\\';
      } else if (c == '"' || c == '{' || c == '}' || c == '[' || c == ']' || c == ',' || c == ':') {
        in_string_ = c == '"';
        run_ = 0;
      }
      if (++run_ > limits_.token_bytes) {
        return Status::invalid("%s holds more than %lld bytes without structure, a string that is too long",
                               what_.c_str(), static_cast<long long>(limits_.token_bytes));
      }
    }
    return {};
  }

  const std::string& what_;
  const JsonSource& source_;
  const JsonLimits& limits_;
  std::array<char, 65536> buffer_;
  bool in_string_ = false, escaped_ = false;
  std::int64_t run_ = 0;
  Status status_;
};

/// The JSON library's side of JsonReceiver.
class Events : public nlohmann::json_sax<Json> {
 public:
  Events(const std::string& what, const JsonLimits& limits, JsonReceiver& receiver)
      : what_(what), limits_(limits), receiver_(receiver) {}
  const Status& status() const { return status_; }

  bool null() override { return take({}); }
  bool boolean(bool value) override { return take({JsonScalar::Kind::boolean, value, value ? 1.0 : 0.0}); }
  bool number_integer(number_integer_t value) override {
    return take({JsonScalar::Kind::negative, 0, static_cast<double>(value)});
  }
  bool number_unsigned(number_unsigned_t value) override {
    return take({JsonScalar::Kind::natural, value, static_cast<double>(value)});
  }
  bool number_float(number_float_t value, const string_t&) override { return take({JsonScalar::Kind::real, 0, value}); }
  bool string(string_t& value) override { return take({JsonScalar::Kind::text, 0, 0, value}); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(true); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(false); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override { return ok(receiver_.key(value)); }
  bool parse_error(std::size_t position, const std::string&, const Json::exception& error) override {
    const bool utf8 = std::strstr(error.what(), "UTF-8") != nullptr;
    return ok(Status::invalid("%s is not valid %s (byte %zu)", what_.c_str(), utf8 ? "UTF-8" : "JSON", position));
  }

 private:
  bool ok(const Status& status) {
    status_ = status;
    return status_.ok();
  }
  bool take(const JsonScalar& scalar) { return ok(receiver_.value(scalar)); }
  bool open(bool is_object) {
    if (++depth_ > limits_.depth) {
      return ok(Status::invalid("%s nests more than %d deep", what_.c_str(), limits_.depth));
    }
    return ok(receiver_.open(is_object));
  }
  bool close() {
    --depth_;
    return ok(receiver_.close());
  }

  const std::string& what_;
  const JsonLimits& limits_;
  JsonReceiver& receiver_;
  int depth_ = 0;
  Status status_;
};

}  // namespace

Status read_json(const std::string& what, const JsonSource& source, const JsonLimits& limits, JsonReceiver& receiver) {
  CheckedBuffer buffer(what, source, limits);
  std::istream stream(&buffer);
  Events events(what, limits, receiver);
  Json::sax_parse(stream, &events);
  // A text that fails our own checks also looks cut off to the parser; ours is the better sentence.
  return buffer.status().ok() ? events.status() : buffer.status();
}

JsonSource json_source(std::string_view text) {
  return [text](char* buffer, std::size_t bytes) mutable -> Result<std::size_t> {
    const std::size_t count = std::min(bytes, text.size());
    if (count > 0) std::memcpy(buffer, text.data(), count);  // an empty view may have no address
    text.remove_prefix(count);
    return count;
  };
}

std::string shown(const JsonScalar& scalar) {
  switch (scalar.kind) {
    case JsonScalar::Kind::null:
      return "null";
    case JsonScalar::Kind::boolean:
      return scalar.natural != 0 ? "true" : "false";
    case JsonScalar::Kind::natural:
      return std::to_string(scalar.natural);
    case JsonScalar::Kind::text:
      return in_quotes(scalar.text);
    default:
      break;
  }
  char text[40];
  std::snprintf(text, sizeof(text), "%.17g", scalar.number);
  // The shortest of the two that still is the number: 0.1, not 0.10000000000000001.
  char brief[40];
  std::snprintf(brief, sizeof(brief), "%.9g", scalar.number);
  return std::strtod(brief, nullptr) == scalar.number ? brief : text;
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMostBytes = 120;
  std::string result = "\"";
  for (const char c : text.substr(0, kMostBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    result += byte < 0x20 || byte == 0x7f ? '?' : c;
  }
  return result + (text.size() > kMostBytes ? "...\"" : "\"");
}

Result<std::string> json_string(std::string_view text) {
  try {
    return Json(text).dump();
  } catch (const Json::type_error&) {
    return Status::invalid("the text %s is not UTF-8", in_quotes(text).c_str());
  }
}

}  // namespace fathom
