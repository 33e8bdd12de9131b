// JSON of unknown origin, read as a stream of events. The JSON library checks the grammar and UTF-8; here are the
// checks it lacks: depth, zero bytes (it takes one for the end of the text), and runs without structure, whose bytes it
// would collect in memory. Nothing is kept, so a receiver's memory is all that a text can use.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "fathom/core/status.h"

namespace fathom {

struct JsonScalar {
  enum class Kind : std::uint8_t { null, boolean, natural, negative, real, text };
  Kind kind = Kind::null;
  std::uint64_t natural = 0;  ///< natural; boolean as 0 or 1
  double number = 0;          ///< natural, negative and real; integers past 64 bits are real
  std::string_view text = {};
};

/// What a JSON text holds, in order. A status that is not ok ends the reading and is its result.
class JsonReceiver {
 public:
  virtual ~JsonReceiver() = default;
  virtual Status open(bool is_object) = 0;
  virtual Status close() = 0;
  virtual Status key(std::string_view key) = 0;
  virtual Status value(const JsonScalar& scalar) = 0;
};

struct JsonLimits {
  int depth = 16;
  /// Most bytes of one string, and of other text between two of {}[],:
  std::int64_t token_bytes = std::int64_t{1} << 20;
};

/// Fills a buffer with the next bytes of the text and returns how many; 0 at its end.
using JsonSource = std::function<Result<std::size_t>(char* buffer, std::size_t bytes)>;

/// Statuses start with "`what` ", as in "config: the text is not valid JSON (byte 17)". Repeated keys are the
/// receiver's business.
Status read_json(const std::string& what, const JsonSource& source, const JsonLimits& limits, JsonReceiver& receiver);

/// A source over text in memory, which must outlive it.
JsonSource json_source(std::string_view text);

/// A scalar for people: 17, -3, 0.5, "text", true, null.
std::string shown(const JsonScalar& scalar);
/// `text` in double quotes for people: unprintable bytes become '?', long texts are cut.
std::string in_quotes(std::string_view text);
/// `text` as a JSON string; invalid_argument if it is not UTF-8.
Result<std::string> json_string(std::string_view text);

}  // namespace fathom
