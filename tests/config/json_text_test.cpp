// The stream of JSON events: order, limits, and texts that the JSON library alone would take.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "config/json_text.h"

namespace fathom {
namespace {

/// Writes the events down, and stops at the text "stop".
class Recorder : public JsonReceiver {
 public:
  std::string events;
  Status open(bool is_object) override { return events += is_object ? "{" : "[", Status(); }
  Status close() override { return events += ";", Status(); }
  Status key(std::string_view key) override { return events += std::string(key) + ":", Status(); }
  Status value(const JsonScalar& scalar) override {
    if (scalar.text == "stop") return Status::unsupported("stopped");
    events += shown(scalar) + " ";
    return {};
  }
};

std::string events_of(const std::string& text, const JsonLimits& limits = {}) {
  Recorder recorder;
  const Status status = read_json("test: it", json_source(text), limits, recorder);
  return status.ok() ? recorder.events : status.text();
}

TEST(JsonText, EventsComeInOrder) {
  EXPECT_EQ(events_of(R"({"a": [1, -2, 0.5, 1e300], "b": {"c": "x\u0041\n"}, "d": true, "e": null})"),
            "{a:[1 -2 0.5 1e+300 ;b:{c:\"xA?\" ;d:true e:null ;");
}

TEST(JsonText, IntegersPast64BitsAreReal) {
  EXPECT_EQ(events_of("[18446744073709551615, 18446744073709551616]"),
            "[18446744073709551615 1.8446744073709552e+19 ;");
}

TEST(JsonText, AReceiversStatusEndsTheReading) { EXPECT_EQ(events_of(R"(["go", "stop", "go"])"), "stopped"); }

TEST(JsonText, PiecesOfAnySizeGiveTheSameEvents) {
  const std::string text = R"({"key \" with quote": ["\\", "\\\"", "{[,"], "n": 12345})";
  const std::string expected = events_of(text);
  for (std::size_t piece = 1; piece < 8; ++piece) {
    Recorder recorder;
    std::string_view rest = text;
    const JsonSource source = [&](char* buffer, std::size_t bytes) -> Result<std::size_t> {
      const std::size_t count = std::min({bytes, piece, rest.size()});
      rest.copy(buffer, count);
      rest.remove_prefix(count);
      return count;
    };
    ASSERT_TRUE(read_json("test", source, {}, recorder).ok());
    EXPECT_EQ(recorder.events, expected);
  }
}

TEST(JsonText, ASourcesStatusIsTheResult) {
  Recorder recorder;
  const JsonSource source = [](char*, std::size_t) -> Result<std::size_t> {
    return Status::device_error("the disk is gone");
  };
  EXPECT_STREQ(read_json("test", source, {}, recorder).text(), "the disk is gone");
}

TEST(JsonText, LimitsHold) {
  EXPECT_EQ(events_of("[[[1]]]", {3}), "[[[1 ;;;");
  EXPECT_EQ(events_of("[[[[1]]]]", {3}), "test: it nests more than 3 deep");
  const std::string run = "test: it holds more than 10 bytes without structure, a string that is too long";
  EXPECT_EQ(events_of("[\"12345678\"]", {3, 10}), "[\"12345678\" ;");
  EXPECT_EQ(events_of("[\"123456789012\"]", {3, 10}), run);
  EXPECT_EQ(events_of("[12345678901234]", {3, 10}), run);
  EXPECT_EQ(events_of("[            ]", {3, 10}), run);
  EXPECT_EQ(events_of("[\"[,,,,,,,,,,,,\"]", {3, 10}), run);  // structure inside a string is none
  EXPECT_EQ(events_of(R"(["\\\\",1,1,1,1,1,1,1,1,1])", {3, 10}), "[\"\\\\\" 1 1 1 1 1 1 1 1 1 ;");  // an escaped escape ends
}

TEST(JsonText, BrokenTextsAreRefused) {
  for (const char* text :
       {"", " ", "{", "[1,]", "{\"a\" 1}", "nul", "[1] [2]", "{'a': 1}", "[01]", "[1.]", "[\"\t\"]", "[\"\\x\"]"}) {
    EXPECT_NE(events_of(text).find("is not valid JSON (byte "), std::string::npos) << text;
  }
  EXPECT_NE(events_of("[\"\xc3\x28\"]").find("is not valid UTF-8"), std::string::npos);
  EXPECT_NE(events_of("[\"\xed\xa0\x80\"]").find("is not valid UTF-8"), std::string::npos);  // a lone surrogate
  EXPECT_EQ(events_of(std::string("[1]\0 anything", 14)), "test: it holds a zero byte");
}

TEST(JsonText, QuotedIsPrintableAndShort) {
  EXPECT_EQ(in_quotes("a\n\x7f\x01z"), "\"a???z\"");
  EXPECT_EQ(in_quotes(std::string(500, 'a')), "\"" + std::string(120, 'a') + "...\"");
  EXPECT_EQ(in_quotes(""), "\"\"");
}

TEST(JsonText, JsonStringEscapesAndRefusesWhatIsNotUtf8) {
  EXPECT_EQ(json_string("a\"\\\n\x01").value(), "\"a\\\"\\\\\\n\\u0001\"");
  EXPECT_FALSE(json_string("\xff").ok());
}

}  // namespace
}  // namespace fathom
