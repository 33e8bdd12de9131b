// The JSON that bindings read: valid whatever the texts hold, and saying exactly what the op table says.
#include "c_api/op_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace {

using fathom::op_json;

TEST(OpJson, SaysWhatTheTableSays) {
  ASSERT_FALSE(fathom::op_table().empty());
  for (const fathom::OpSpec* op : fathom::op_table()) {
    SCOPED_TRACE(op->name);
    const auto json = nlohmann::json::parse(op_json(*op));
    EXPECT_EQ(json.at("name"), op->name);
    EXPECT_EQ(json.at("stage"), op->stage);
    EXPECT_EQ(json.at("summary"), op->summary);
    EXPECT_EQ(json.at("formula"), op->formula);
    EXPECT_EQ(json.at("source"), op->source);
    ASSERT_EQ(json.at("args").size(), op->args.size());
    for (std::size_t i = 0; i < op->args.size(); ++i) {
      const auto& arg = json["args"][i];
      EXPECT_EQ(arg.at("name"), op->args[i].name);
      EXPECT_EQ(arg.at("role"), name_of(op->args[i].role));
      EXPECT_EQ(arg.at("optional").get<bool>(), is_optional(op->args[i].role));
      EXPECT_EQ(arg.at("shape"), op->args[i].shape);
      EXPECT_EQ(arg.at("dtypes"), op->args[i].dtypes);
      EXPECT_EQ(arg.at("doc"), op->args[i].doc);
    }
    ASSERT_EQ(json.at("fields").size(), op->problem->fields.size());
    for (std::size_t i = 0; i < op->problem->fields.size(); ++i) {
      const fathom::ProblemField& field = op->problem->fields[i];
      const auto& shown = json["fields"][i];
      EXPECT_EQ(shown.at("name"), field.name);
      EXPECT_EQ(shown.at("default"), field_text(field, op->problem->defaults));
      EXPECT_EQ(shown.contains("most"), field.most != 0) << field.name;
      EXPECT_EQ(shown.value("least", std::int64_t{0}), field.least) << field.name;
      EXPECT_EQ(shown.value("most", std::int64_t{0}), field.most) << field.name;
      EXPECT_EQ(shown.contains("words") ? shown["words"].size() : 0, field_words(field).size()) << field.name;
      EXPECT_EQ(shown.value("group", ""), field.group == nullptr ? "" : field.group) << field.name;
    }
  }
}

TEST(OpJson, ADefaultReadsBackAsTheDefault) {
  // What a binding prints from the JSON must be a problem text the library takes.
  for (const fathom::OpSpec* op : fathom::op_table()) {
    for (const fathom::ProblemField& field : op->problem->fields) {
      std::vector<std::byte> problem(op->problem->size);
      const std::string text = std::string(field.name) + "=" + field_text(field, op->problem->defaults);
      // A size without a sensible default stands at 0, outside its bounds, so that leaving it out is noticed.
      if (field.least > 0 && field_text(field, op->problem->defaults) == "0") continue;
      EXPECT_TRUE(parse_problem(*op->problem, text, problem.data()).ok()) << op->name << ": " << text;
    }
  }
}

TEST(OpJson, CandidatesKeepTheirOrderAndReasons) {
  const fathom::Candidate list[] = {{"cuda:sm90", fathom::DeviceKind::cuda, "needs a \"cuda\" device"},
                                    {"reference", fathom::DeviceKind::cpu, ""}};
  const auto json = nlohmann::json::parse(fathom::candidates_json(list));
  ASSERT_EQ(json.size(), 2u);
  EXPECT_EQ(json[0].at("implementation"), "cuda:sm90");
  EXPECT_EQ(json[0].at("reason"), "needs a \"cuda\" device");
  EXPECT_EQ(json[1].at("reason"), "");
  EXPECT_EQ(fathom::candidates_json({}), "[]");
}

}  // namespace
