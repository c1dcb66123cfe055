/*
 * template.c
 *		The pure template engine: text to a flat tree, and the walk over it. No PostgreSQL in here.
 */
#include <string.h>

#include "template.h"

typedef struct OpenSection
{
	int node;
	TemplateSlice tag;
} OpenSection;

/* A tag in the source: where it lies, what kind it is, what is between its delimiters. */
typedef struct Tag
{
	size_t start;
	size_t end;
	char sigil; /* one of SIGILS, or 0 for a plain variable */
	TemplateSlice inner;
} Tag;

typedef struct Parser
{
	const TemplateHost *host;
	TemplateTree *tree;
	TemplateError *error;
	TemplateSlice source;
	size_t at; /* what lies before is in the tree */
	char open[TEMPLATE_MAX_DELIMITER];
	size_t open_len;
	char close[TEMPLATE_MAX_DELIMITER];
	size_t close_len;
	OpenSection sections[TEMPLATE_MAX_DEPTH];
	int depth;
} Parser;

typedef struct Walk
{
	const TemplateHost *host;
	const TemplateTree *tree;
	TemplateValue stack[TEMPLATE_MAX_DEPTH + 1];
	int depth; /* index of the innermost context */
} Walk;

#define SIGILS "#^/!=&{>$<"

/* ---------------------------------------------------------------- small pieces of text */

static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

static TemplateSlice
slice_trim(TemplateSlice slice)
{
	for (; slice.len > 0 && is_space(slice.at[0]); slice.len--)
		slice.at++;
	while (slice.len > 0 && is_space(slice.at[slice.len - 1]))
		slice.len--;
	return slice;
}

static bool
slice_equal(TemplateSlice a, TemplateSlice b)
{
	return a.len == b.len && memcmp(a.at, b.at, a.len) == 0;
}

/* slice_split cuts off what lies before a byte; false where the byte is not there. */
static bool
slice_split(TemplateSlice *rest, char at, TemplateSlice *head)
{
	const char *hit = rest->len > 0 ? memchr(rest->at, at, rest->len) : NULL;

	*head = *rest;
	if (hit == NULL)
		return false;
	head->len = hit - rest->at;
	rest->len -= head->len + 1;
	rest->at = hit + 1;
	return true;
}

/* text_find returns where needle begins, from 'from' on, or the length of the text. */
static size_t
text_find(TemplateSlice text, size_t from, const char *needle, size_t needle_len)
{
	while (from + needle_len <= text.len)
	{
		const char *hit = memchr(text.at + from, needle[0], text.len - from - needle_len + 1);

		if (hit == NULL)
			break;
		from = hit - text.at;
		if (memcmp(hit, needle, needle_len) == 0)
			return from;
		from++;
	}
	return text.len;
}

/* ---------------------------------------------------------------- errors */

static bool
fail(Parser *parser, TemplateErrorCode code, size_t offset, TemplateSlice found)
{
	parser->error->code = code;
	parser->error->offset = offset;
	parser->error->found = found;
	return false;
}

static TemplateSlice
source_slice(const Parser *parser, size_t from, size_t to)
{
	TemplateSlice slice = {parser->source.at + from, to - from};

	return slice;
}

static TemplateSlice
tag_text(const Parser *parser, const Tag *tag)
{
	return source_slice(parser, tag->start, tag->end);
}

static bool
fail_tag(Parser *parser, TemplateErrorCode code, const Tag *tag)
{
	return fail(parser, code, tag->start, tag_text(parser, tag));
}

/* ---------------------------------------------------------------- the tree */

/* grow makes room for one more element of an array, doubling it. */
static void *
grow(const Parser *parser, void *array, int count, int *room, size_t size)
{
	if (count < *room)
		return array;
	*room = *room == 0 ? 16 : *room * 2;
	return parser->host->resize(parser->host->context, array, *room * size);
}

static void
add_node(Parser *parser, TemplateNodeKind kind, TemplateSlice text)
{
	TemplateTree *tree = parser->tree;
	TemplateNode *node;

	tree->nodes =
		grow(parser, tree->nodes, tree->node_count, &tree->node_room, sizeof(TemplateNode));
	node = &tree->nodes[tree->node_count++];
	node->kind = kind;
	node->next = tree->node_count;
	node->first_filter = tree->filter_count;
	node->filter_count = 0;
	node->text = text;
}

static void
add_text(Parser *parser, size_t to)
{
	if (to > parser->at)
		add_node(parser, TEMPLATE_TEXT, source_slice(parser, parser->at, to));
}

static TemplateFilter *
add_filter(Parser *parser)
{
	TemplateTree *tree = parser->tree;

	tree->filters =
		grow(parser, tree->filters, tree->filter_count, &tree->filter_room, sizeof(TemplateFilter));
	memset(&tree->filters[tree->filter_count], 0, sizeof(TemplateFilter));
	return &tree->filters[tree->filter_count++];
}

/* ---------------------------------------------------------------- tokens */

/* tag_end finds the closing delimiter; after { and = it is preceded by } and =. */
static size_t
tag_end(Parser *parser, char sigil, size_t from, size_t *inner_end)
{
	char needle[TEMPLATE_MAX_DELIMITER + 1];
	size_t len = 0;

	if (sigil == '{')
		needle[len++] = '}';
	else if (sigil == '=')
		needle[len++] = '=';
	memcpy(needle + len, parser->close, parser->close_len);
	len += parser->close_len;
	*inner_end = text_find(parser->source, from, needle, len);
	return *inner_end == parser->source.len ? 0 : *inner_end + len;
}

/* next_tag finds the next tag; the text before it stays for take_tag, that after the last is added. */
static bool
next_tag(Parser *parser, Tag *tag, bool *found)
{
	TemplateSlice source = parser->source;
	size_t from;
	size_t inner_end;

	tag->start = text_find(source, parser->at, parser->open, parser->open_len);
	*found = tag->start < source.len;
	if (!*found)
	{
		add_text(parser, source.len);
		return true;
	}

	from = tag->start + parser->open_len;
	while (from < source.len && is_space(source.at[from]))
		from++;
	tag->sigil = 0;
	if (from < source.len && source.at[from] != '\0' && strchr(SIGILS, source.at[from]) != NULL)
		tag->sigil = source.at[from++];
	tag->end = tag_end(parser, tag->sigil, from, &inner_end);
	if (tag->end == 0)
		return fail(parser, TEMPLATE_UNCLOSED_TAG, tag->start,
					source_slice(parser, tag->start, source.len));
	tag->inner = source_slice(parser, from, inner_end);
	return true;
}

/*
 * is_standalone tells whether a tag has its line for itself; the whole line then goes: *line_start is
 * where it begins, *line_end is behind its line break.
 */
static bool
is_standalone(const Parser *parser, const Tag *tag, size_t *line_start, size_t *line_end)
{
	const char *at = parser->source.at;
	size_t len = parser->source.len;
	size_t start = tag->start;
	size_t end = tag->end;

	while (start > parser->at && (at[start - 1] == ' ' || at[start - 1] == '\t'))
		start--;
	if (start > 0 && at[start - 1] != '\n')
		return false;
	while (end < len && (at[end] == ' ' || at[end] == '\t'))
		end++;
	if (end + 1 < len && at[end] == '\r' && at[end + 1] == '\n')
		end += 2;
	else if (end < len && at[end] == '\n')
		end++;
	else if (end < len)
		return false;
	*line_start = start;
	*line_end = end;
	return true;
}

/* check_name admits "." and names joined by single dots; braces betray a broken tag. */
static bool
check_name(Parser *parser, const Tag *tag, TemplateSlice name)
{
	size_t i;

	if (name.len == 0)
		return fail_tag(parser, TEMPLATE_EMPTY_NAME, tag);
	if (name.len == 1 && name.at[0] == '.')
		return true;
	for (i = 0; i < name.len; i++)
	{
		char c = name.at[i];

		if (c == '{' || c == '}' || (unsigned char) c < ' ')
			return fail_tag(parser, TEMPLATE_BAD_NAME, tag);
		if (c == '.' && (i == 0 || i + 1 == name.len || name.at[i - 1] == '.'))
			return fail_tag(parser, TEMPLATE_BAD_NAME, tag);
	}
	return true;
}

/* ---------------------------------------------------------------- tags */

/* take_argument reads a filter's argument: up to the next bar, or between quotes. */
static bool
take_argument(Parser *parser, const Tag *tag, TemplateSlice *rest, TemplateSlice *argument,
			  bool *more)
{
	TemplateSlice behind;
	char quote;

	for (; rest->len > 0 && is_space(rest->at[0]); rest->len--)
		rest->at++;
	quote = rest->len > 0 ? rest->at[0] : 0;
	if (quote != '"' && quote != '\'')
	{
		*more = slice_split(rest, '|', argument);
		*argument = slice_trim(*argument);
		return true;
	}
	rest->at++;
	rest->len--;
	if (!slice_split(rest, quote, argument))
		return fail_tag(parser, TEMPLATE_UNCLOSED_QUOTE, tag);
	*more = slice_split(rest, '|', &behind);
	if (slice_trim(behind).len > 0)
		return fail_tag(parser, TEMPLATE_UNCLOSED_QUOTE, tag);
	return true;
}

/* take_filters reads "name:argument | name ..." and asks the host about each. */
static bool
take_filters(Parser *parser, const Tag *tag, TemplateSlice rest)
{
	int first = parser->tree->filter_count;
	bool more = true;

	while (more)
	{
		TemplateFilter *filter = add_filter(parser);
		size_t name_len = 0;
		TemplateErrorCode code;

		while (name_len < rest.len && rest.at[name_len] != ':' && rest.at[name_len] != '|')
			name_len++;
		filter->name.at = rest.at;
		filter->name.len = name_len;
		filter->name = slice_trim(filter->name);
		filter->has_argument = name_len < rest.len && rest.at[name_len] == ':';
		more = name_len < rest.len;
		rest.at += more ? name_len + 1 : name_len;
		rest.len -= more ? name_len + 1 : name_len;
		if (filter->has_argument && !take_argument(parser, tag, &rest, &filter->argument, &more))
			return false;
		code = filter->name.len == 0 ? TEMPLATE_EMPTY_FILTER
									 : parser->host->filter(parser->host->context, filter);
		if (code != TEMPLATE_OK)
		{
			parser->error->other = filter->name;
			return fail(parser, code, filter->name.at - parser->source.at, tag_text(parser, tag));
		}
	}
	parser->tree->nodes[parser->tree->node_count - 1].filter_count =
		parser->tree->filter_count - first;
	return true;
}

static bool
take_variable(Parser *parser, const Tag *tag)
{
	TemplateSlice rest = tag->inner;
	TemplateSlice name;
	bool filtered = slice_split(&rest, '|', &name);

	name = slice_trim(name);
	if (!check_name(parser, tag, name))
		return false;
	add_node(parser, TEMPLATE_VARIABLE, name);
	return !filtered || take_filters(parser, tag, rest);
}

static bool
take_open(Parser *parser, const Tag *tag)
{
	TemplateSlice name = slice_trim(tag->inner);
	OpenSection *section;

	if (!check_name(parser, tag, name))
		return false;
	if (memchr(name.at, '|', name.len) != NULL)
		return fail_tag(parser, TEMPLATE_FILTERED_SECTION, tag);
	if (parser->depth == TEMPLATE_MAX_DEPTH)
		return fail_tag(parser, TEMPLATE_TOO_DEEP, tag);
	section = &parser->sections[parser->depth++];
	section->node = parser->tree->node_count;
	section->tag = tag_text(parser, tag);
	add_node(parser, tag->sigil == '#' ? TEMPLATE_SECTION : TEMPLATE_INVERTED, name);
	return true;
}

static bool
take_close(Parser *parser, const Tag *tag)
{
	TemplateSlice name = slice_trim(tag->inner);
	OpenSection *section;

	if (!check_name(parser, tag, name))
		return false;
	if (parser->depth == 0)
		return fail_tag(parser, TEMPLATE_STRAY_CLOSE, tag);
	section = &parser->sections[parser->depth - 1];
	if (!slice_equal(name, parser->tree->nodes[section->node].text))
	{
		parser->error->other = section->tag;
		return fail_tag(parser, TEMPLATE_WRONG_CLOSE, tag);
	}
	parser->tree->nodes[section->node].next = parser->tree->node_count;
	parser->depth--;
	return true;
}

/* take_delimiter cuts the next word off; its length is 0 where it cannot be a delimiter. */
static TemplateSlice
take_delimiter(TemplateSlice *rest)
{
	TemplateSlice word;

	*rest = slice_trim(*rest);
	word = *rest;
	word.len = 0;
	while (word.len < rest->len && !is_space(rest->at[word.len]))
		word.len++;
	rest->at += word.len;
	rest->len -= word.len;
	if (word.len > TEMPLATE_MAX_DELIMITER || memchr(word.at, '=', word.len) != NULL)
		word.len = 0;
	return word;
}

static bool
take_delimiters(Parser *parser, const Tag *tag)
{
	TemplateSlice rest = tag->inner;
	TemplateSlice open = take_delimiter(&rest);
	TemplateSlice close = take_delimiter(&rest);

	if (open.len == 0 || close.len == 0 || slice_trim(rest).len > 0)
		return fail_tag(parser, TEMPLATE_BAD_DELIMITERS, tag);
	memcpy(parser->open, open.at, open.len);
	parser->open_len = open.len;
	memcpy(parser->close, close.at, close.len);
	parser->close_len = close.len;
	return true;
}

/* take_tag adds the text before a tag and the tag itself. */
static bool
take_tag(Parser *parser, const Tag *tag)
{
	size_t text_end = tag->start;
	size_t behind = tag->end;

	if (tag->sigil != 0 && strchr("#^/!=", tag->sigil) != NULL)
		(void) is_standalone(parser, tag, &text_end, &behind);
	add_text(parser, text_end);
	parser->at = behind;

	switch (tag->sigil)
	{
		case '!':
			return true;
		case '=':
			return take_delimiters(parser, tag);
		case '#':
		case '^':
			return take_open(parser, tag);
		case '/':
			return take_close(parser, tag);
		case '>':
			return fail_tag(parser, TEMPLATE_NO_PARTIALS, tag);
		case '<':
		case '$':
			return fail_tag(parser, TEMPLATE_NO_INHERITANCE, tag);
		default:
			return take_variable(parser, tag);
	}
}

/*
 * ecstats_template_parse makes the tree of a text, or says in *error what is wrong and where. The
 * tree's memory comes from the host in either case.
 */
bool
ecstats_template_parse(const TemplateHost *host, TemplateSlice source, TemplateTree *tree,
					   TemplateError *error)
{
	Parser parser;
	Tag tag;
	bool found;

	memset(tree, 0, sizeof(TemplateTree));
	memset(error, 0, sizeof(TemplateError));
	memset(&parser, 0, sizeof(Parser));
	parser.host = host;
	parser.tree = tree;
	parser.error = error;
	parser.source = source;
	parser.open_len = parser.close_len = 2;
	memcpy(parser.open, "{{", 2);
	memcpy(parser.close, "}}", 2);

	if (source.len > TEMPLATE_MAX_SOURCE)
		return fail(&parser, TEMPLATE_TOO_LONG, 0, source);
	for (;;)
	{
		if (!next_tag(&parser, &tag, &found))
			return false;
		if (!found)
			break;
		if (!take_tag(&parser, &tag))
			return false;
	}
	if (parser.depth > 0)
	{
		TemplateSlice open = parser.sections[parser.depth - 1].tag;

		return fail(&parser, TEMPLATE_UNCLOSED_SECTION, open.at - source.at, open);
	}
	return true;
}

/* ---------------------------------------------------------------- the walk */

/*
 * ecstats_template_lookup finds a name: its first part in the innermost context that has it, the other
 * parts below that one alone. A miss is false and TEMPLATE_ABSENT. stack[depth] is the innermost.
 */
bool
ecstats_template_lookup(const TemplateHost *host, const TemplateValue *stack, int depth,
						TemplateSlice name, TemplateValue *result)
{
	TemplateSlice part;
	TemplateValue container;
	bool more;
	bool hit = false;

	if (name.len == 1 && name.at[0] == '.')
	{
		*result = stack[depth];
		return true;
	}
	more = slice_split(&name, '.', &part);
	for (; depth >= 0 && !hit; depth--)
	{
		if (stack[depth].kind >= TEMPLATE_OBJECT)
			hit = host->member(host->context, &stack[depth], part, result);
	}
	while (hit && more)
	{
		more = slice_split(&name, '.', &part);
		container = *result;
		hit = container.kind >= TEMPLATE_OBJECT &&
			  host->member(host->context, &container, part, result);
	}
	if (!hit)
		result->kind = TEMPLATE_ABSENT;
	return hit;
}

static bool
is_true(const TemplateValue *value)
{
	return value->kind >= TEMPLATE_SCALAR && (value->kind != TEMPLATE_ARRAY || value->count > 0);
}

static bool walk_range(Walk *walk, int from, int to);

/* walk_section passes once through a section, or once for each element of an array. */
static bool
walk_section(Walk *walk, int at, const TemplateValue *value)
{
	const TemplateHost *host = walk->host;
	int passes = value->kind == TEMPLATE_ARRAY ? value->count : 1;
	bool going = true;
	int i;

	walk->depth++;
	for (i = 0; i < passes && going; i++)
	{
		if (value->kind == TEMPLATE_ARRAY)
			host->element(host->context, value, i, &walk->stack[walk->depth]);
		else
			walk->stack[walk->depth] = *value;
		going = host->pass(host->context) && walk_range(walk, at + 1, walk->tree->nodes[at].next);
	}
	walk->depth--;
	return going;
}

static bool
walk_range(Walk *walk, int from, int to)
{
	const TemplateHost *host = walk->host;
	bool going = true;
	int i;

	for (i = from; i < to && going; i = walk->tree->nodes[i].next)
	{
		const TemplateNode *node = &walk->tree->nodes[i];
		TemplateValue value;

		if (node->kind == TEMPLATE_TEXT)
		{
			going = host->text(host->context, node->text);
			continue;
		}
		ecstats_template_lookup(host, walk->stack, walk->depth, node->text, &value);
		if (node->kind == TEMPLATE_VARIABLE)
			going = host->value(host->context, &value,
								node->filter_count > 0 ? &walk->tree->filters[node->first_filter]
													   : NULL,
								node->filter_count);
		else if (node->kind == TEMPLATE_SECTION && is_true(&value))
			going = walk_section(walk, i, &value);
		else if (node->kind == TEMPLATE_INVERTED && !is_true(&value))
			going = walk_range(walk, i + 1, node->next);
	}
	return going;
}

/* ecstats_template_walk renders a tree over data; false where a callback stopped it. */
bool
ecstats_template_walk(const TemplateHost *host, const TemplateTree *tree, const TemplateValue *data)
{
	Walk walk;

	walk.host = host;
	walk.tree = tree;
	walk.stack[0] = *data;
	walk.depth = 0;
	return walk_range(&walk, 0, tree->node_count);
}
