/*
 * text_test.c: what may be shown. Quiet when all is well.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../pusher/text.h"

static int wrong = 0;

/*
 * expect compares two texts.
 */
static void
expect(const char *what, const char *got, const char *want)
{
	if (strcmp(got, want) != 0)
	{
		printf("# %s: got \"%s\", want \"%s\"\n", what, got, want);
		wrong++;
	}
}

static const char *const urls[][2] = {
	{"https://oapi.dingtalk.com/robot/send?access_token=k", "https://oapi.dingtalk.com/…"},
	{"http://127.0.0.1:8080/hook", "http://127.0.0.1:8080/…"},
	{"https://user:secret@host/x", "https://host/…"},
	{"https://user:se@cret@host:1/x", "https://host:1/…"},
	{"https://user:sec/ret@host/x", "https:///…"},
	{"https://user:sec?ret@host/x", "https:///…"},
	{"https://host?key=secret", "https://host/…"},
	{"https://host#secret", "https://host/…"},
	{"http://[::1]:80/secret", "http://[::1]:80/…"},
	{"https://secret/x@host/", "https:///…"},
	{"https://user:77/x@host/", "https:///…"},
	{"https://user:s@host/x@y", "https://host/…"},
	{"socks5h://u:p@proxy:1080", "socks5h://proxy:1080/…"},
	{"se-cret://host/", "(not a URL)"},
	{"verylongsecret://host/", "(not a URL)"},
	{"secret?u=http://host/", "(not a URL)"},
	{"secret", "(not a URL)"},
	{"", "(not a URL)"},
};

/* Text, secret, what is left. */
static const char *const masks[][3] = {
	{"no host: S3CRET.example", "s3cret", "no host: ***.example"},
	{"s3cret", "s3cret", "***"},
	{"s3crets3cret s3cre", "s3cret", "****** s3cre"},
	{"aaaaaaaaa", "aaaa", "******a"},
	{"a user", "use", "a user"},
	{"", "s3cret", ""},
	{"****", "****", "***"},
};

static const char *const bytes[][2] = {
	{"日报 ok", "日报 ok"},
	{"a\xff\xfe"
	 "b",
	 "a??b"},
	{"\xc0\xaf", "??"},			  /* overlong */
	{"\xed\xa0\x80", "???"},	  /* surrogate */
	{"\xf4\x90\x80\x80", "????"}, /* past U+10FFFF */
	{"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
	{"cut \xe6\x97", "cut "},
};

int
main(void)
{
	char out[300];
	char *dsn;
	char *quoted;
	size_t i;

	for (i = 0; i < sizeof(urls) / sizeof(urls[0]); i++)
	{
		url_mask(urls[i][0], out, sizeof(out));
		expect(urls[i][0], out, urls[i][1]);
	}
	for (i = 0; i < sizeof(masks) / sizeof(masks[0]); i++)
	{
		strcpy(out, masks[i][0]);
		text_mask(out, masks[i][1], strlen(masks[i][1]));
		expect(masks[i][0], out, masks[i][2]);
	}
	for (i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++)
	{
		utf8_clean(bytes[i][0], strlen(bytes[i][0]), out, sizeof(out));
		expect("bytes", out, bytes[i][1]);
	}
	utf8_clean("a\0b", 3, out, sizeof(out));
	expect("NUL", out, "a?b");
	utf8_clean("日日日", 9, out, 8);
	expect("no room for the last character", out, "日日");

	for (i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++)
	{
		strcpy(out, bytes[i][0]);
		utf8_clean_in_place(out, strlen(out));
		expect("bytes in place", out, bytes[i][1]);
	}
	memcpy(out, "\xEF\xBB\xBF\xEF\xBB\xBF{\0", 8);
	if (utf8_clean_in_place(out, 8) != 5)
		wrong += printf("# the length of what is cleaned in place\n") > 0;
	expect("one byte order mark", out, "\xEF\xBB\xBF{?");
	out[0] = 'x';
	utf8_clean_in_place(out, 0);
	expect("nothing", out, "");

	quoted = json_quote("[", "a\"\\/\b\t\n\r\x1f\x7f日", 13, "]");
	expect("quoted", quoted, "[\"a\\\"\\\\/\\u0008\\t\\n\\r\\u001f\x7f日\"]");
	free(quoted);
	quoted = json_quote("", "", 0, "");
	expect("nothing quoted", quoted, "\"\"");
	free(quoted);

	dsn = dsn_mask("host=h password='a b' sslpassword=x dbname=d");
	expect("dsn", dsn, "password=******** dbname=d host=h sslpassword=********");
	free(dsn);
	dsn = dsn_mask("postgresql://u:secret@h/d");
	if (strstr(dsn, "secret"))
		wrong += printf("# a URI shows its password\n") > 0;
	free(dsn);
	dsn = dsn_mask("host=h secret");
	expect("bad dsn", dsn, "(not a valid connection string)");
	free(dsn);
	return wrong ? 1 : 0;
}
