SET client_min_messages = warning;
DROP EXTENSION IF EXISTS ecstats CASCADE;
CREATE EXTENSION ecstats;
RESET client_min_messages;
SET timezone = 'Asia/Shanghai';
\pset format unaligned

-- a template as a shop would store it
SELECT jsonb_pretty(ecstats_render($t$
{"msgtype": "markdown",
 "markdown": {"content": "**{{day | date:MM月DD日(TMDy)}} 日报**\n成交额 {{gmv | cn}} 环比 {{dod.gmv | signed_percent}}\n{{#top}}\n{{rank}}. {{name | truncate:8}} {{gmv | cn}}\n{{/top}}\n{{^top}}\n无\n{{/top}}\n客单价 {{aov | money}} 元"},
 "at": ["{{owner}}", 7, null, true, {"{{key}}": "{{day}}"}]}
$t$, $d$
{"day": "2026-11-23", "gmv": 1286000.5, "dod": {"gmv": -0.041}, "aov": 162.7, "owner": "wangqing",
 "top": [{"rank": 1, "name": "羽绒服A", "gmv": 182000}, {"rank": 2, "name": "围巾\"C\"|加厚<新>🧣", "gmv": 71000}]}
$d$));

-- roots that are not objects; arguments that are null
SELECT ecstats_render('"{{.}}"', '"a\"b"'), ecstats_render('"{{.}}"', '12.50'),
       ecstats_render('17', '{}'), ecstats_render('["{{0}}", ["{{1.x}}"]]', '["a", {"x": "b"}]'),
       ecstats_render('{}', '{}'), ecstats_render('[]', '[]'), ecstats_render('"{{x}}"', 'null');
SELECT ecstats_render(NULL, '{}') IS NULL AS no_template, ecstats_render('{}', NULL) IS NULL AS no_data;

-- values: numbers as in the data, objects and arrays as JSON text, nothing for null and missing
SELECT name, ecstats.template_render('"[{{v}}]"', jsonb_build_object('v', v)) AS plain,
       ecstats.template_render('"{{#v}}yes{{/v}}{{^v}}no{{/v}}"', jsonb_build_object('v', v)) AS section
FROM (VALUES (1, 'whole', '12345678901234567890'::jsonb), (2, 'scale', '1.10'), (3, 'small', '1e-20'),
             (4, 'zero', '0'), (5, 'true', 'true'), (6, 'false', 'false'), (7, 'null', 'null'),
             (8, 'empty', '""'), (9, 'text', '"a\nb\u0001\\"'), (10, 'object', '{"a": [1, "x"]}'),
             (11, 'array', '[1, 2]'), (12, 'empty array', '[]'), (13, 'empty object', '{}'))
     AS t (n, name, v) ORDER BY n;
SELECT ecstats.template_render('"[{{v}}]{{#v}}yes{{/v}}{{^v}}no{{/v}}"', '{}') AS missing;

-- a value cannot leave its string, nor be rendered again
SELECT ecstats.template_render('{"a": "{{v}}"}', '{"v": "\", \"b\": \"{{w}}"}');

-- number filters
SELECT v, r ->> 'money' AS money, r ->> 'int' AS int, r ->> 'percent' AS percent,
       r ->> 'signed' AS signed, r ->> 'cn' AS cn
FROM (VALUES (1, '0'::jsonb), (2, '1250000.5'), (3, '0.1234'), (4, '-0.041'), (5, '-0.0004'), (6, '0.00049'),
             (7, '0.0005'), (8, '0.5'), (9, '-2.5'), (10, '1.005'), (11, '999.995'), (12, '-1234567'), (13, '8642'),
             (14, '8642.50'), (15, '9999.99'), (16, '9999.995'), (17, '10000'), (18, '1250000'), (19, '1286000'),
             (20, '-1286000'), (21, '28450000'), (22, '99994999'), (23, '99999999'), (24, '100000000'),
             (25, '128000000'), (26, '-128456789.5'), (27, '123456789012345678.9'), (28, '1e30'), (29, '1e-30'),
             (30, '"1234.5"'), (31, '"-7"'), (32, '"12,5"'), (33, '"n/a"'), (34, '"NaN"'), (35, '"-Infinity"'),
             (36, '""'), (37, 'null'), (38, 'true'), (39, '[1]')) AS t (n, v),
     ecstats.template_render('{"money": "{{v | money}}", "int": "{{v | int}}", "percent": "{{v | percent}}",
                               "signed": "{{v | signed_percent}}", "cn": "{{v | cn}}"}',
                             jsonb_build_object('v', v)) AS r
ORDER BY n;
SELECT ecstats.template_render('"{{v | percent:2}} {{v | percent:0}} {{z | signed_percent:持平}} {{v | signed_percent:持平}}"',
                               '{"v": 0.03695, "z": -0.0001}');

-- the currency of the data decides the decimals of money
SELECT c, ecstats.template_render('"{{v | money}}"', jsonb_build_object('v', 1234.5678, 'currency', c))
FROM unnest(ARRAY['CNY', 'JPY', 'krw', 'KWD', 'CLF', 'XPF', 'UYW', 'yuan', '', NULL]) WITH ORDINALITY AS t (c, n)
ORDER BY n;

-- dates
SELECT f, d, ecstats.template_render(to_jsonb('{{d | date:' || f || '}}'), jsonb_build_object('d', d))
FROM (VALUES (1, 'YYYY-MM-DD', '2026-11-03'), (2, 'MM月DD日', '2026-11-03'), (3, 'FMMM月FMDD日 TMDay', '2026-01-03'),
             (4, 'MM-DD HH24:MI', '2026-11-23T09:05:07.123+08:00'), (5, 'HH12:MI:SS AM', '2026-11-23 00:05:07+08'),
             (6, 'hh:mi pm', '2026-11-23 13:05:07Z'), (7, 'Day, DD Month YYYY', '2024-02-29'),
             (8, 'DY dy Dy MON', '2026-11-22'), (9, 'IYYY-IW ID Q DDD D YY', '2027-01-01'),
             (10, '''"Day" Day''', '2026-11-23'), (11, 'YYYY-MM-DDTHH24:MI:SS', '2026-11-23 24:00:00'),
             (12, 'YYYY', '2026-02-30'), (13, 'YYYY', '2026-13-01'), (14, 'YYYY', 'yesterday'),
             (15, 'YYYY', '2026-11-23x'), (16, 'YYYY', ''), (17, 'YYYY', NULL)) AS t (n, f, d) ORDER BY n;

-- text filters, chains, default before and after
SELECT ecstats.template_render(to_jsonb(t), '{"name": "保温杯B型abc", "empty": "", "null": null, "n": 12.5, "zero": 0}')
FROM unnest(ARRAY['{{name | truncate:6}}', '{{name | truncate:8}}', '{{name | truncate:1}}', '{{ name|truncate:6|upper }}',
                  '{{name | upper | truncate:20}}', '{{n | upper}}{{n | truncate:3}}', '[{{missing | upper | truncate:3}}]',
                  '{{missing | default:无}}', '{{empty | default: 无 }}', '{{null | default:"a | b"}}',
                  '{{zero | default:none}}', '{{missing | money}}', '{{missing | default:0 | money}}',
                  '{{missing | money | default:暂无}}', '{{missing | default:}}', '{{missing | date:YYYY | default:-}}'])
     WITH ORDINALITY AS u (t, n) ORDER BY n;

-- conditions
SELECT d, ecstats.template_render('{"text": "{{level}}", "coupon": "C", "image_url": "{{level}}.png", "image": "I", "note": "N", "conditions": [
         {"field": "level", "value": "vip", "render_coupon": true},
         {"field": "level", "value": "gold", "render_coupon": true, "render_image": true},
         {"field": "a.n", "value": 1, "render_image": true},
         {"field": "mute", "value": true, "render_note": false}]}', d)
FROM unnest(ARRAY['{"level": "vip"}', '{"level": "gold"}', '{"level": "none"}', '{"a": {"n": 1.0}}',
                  '{"a": {"n": "1"}, "mute": true}']::jsonb[]) WITH ORDINALITY AS t (d, n) ORDER BY n;
SELECT ecstats.template_render('{"a": 1, "conditions": [{"field": "x", "value": null, "render_a": true}]}', '{}');
SELECT ecstats.template_render('{"in": {"conditions": "{{x}}"}, "conditions": []}', '{"x": 1}');
SELECT ecstats.template_check('{"conditions": {"field": "x"}}');
SELECT ecstats.template_check('{"conditions": [{"field": "x", "value": 1, "render_a": true}, 7]}');
SELECT ecstats.template_check('{"conditions": [{"value": 1, "render_a": true}]}');
SELECT ecstats.template_check('{"conditions": [{"field": "x", "render_a": true}]}');
SELECT ecstats.template_check('{"conditions": [{"field": "x", "value": 1}]}');
SELECT ecstats.template_check('{"conditions": [{"field": "x", "value": 1, "renders_a": true}]}');
SELECT ecstats.template_check('{"conditions": [{"field": "x", "value": 1, "render_a": "yes"}]}');

-- errors say where, what and how
SELECT ecstats.template_check('{"markdown": {"content": "成交额 {{gmv | mony}}"}}');
\echo :LAST_ERROR_SQLSTATE
SELECT ecstats.template_check('{"elements": [1, {"a b": ["x", "{{#a}}\n{{b}}"]}]}');
SELECT ecstats.template_check('"{{#a}}{{/b}}"');
SELECT ecstats.template_check('"{{/b}}"');
SELECT ecstats.template_check('"{{a"');
SELECT ecstats.template_check('"{{}}"');
SELECT ecstats.template_check('"{{a} and {{b}}"');
SELECT ecstats.template_check('"{{=<% %>}}"');
SELECT ecstats.template_check('"{{=<% % %>=}}"');
SELECT ecstats.template_check('"{{> part}}"');
SELECT ecstats.template_check('"{{$block}}{{/block}}"');
SELECT ecstats.template_check('"{{#a | upper}}{{/a}}"');
SELECT ecstats.template_check('"{{a |}}"');
SELECT ecstats.template_check('"{{a | truncate}}"');
SELECT ecstats.template_check('"{{a | truncate:0}}"');
SELECT ecstats.template_check('"{{a | truncate:ten}}"');
SELECT ecstats.template_check('"{{a | upper:x}}"');
SELECT ecstats.template_check('"{{a | date:%Y-%m-%d}}"');
SELECT ecstats.template_check('"{{a | percent:7}}"');
SELECT ecstats.template_check('"{{a | default:''x}}"');
SELECT ecstats.template_check(to_jsonb(repeat('{{#a}}', 65) || repeat('{{/a}}', 65)));
SELECT ecstats.template_check(to_jsonb('{{a}}' || repeat('x', 1048576)));
SELECT ecstats_render('"{{a | nope}}"', '{}');

-- limits on what a rendering may cost
SELECT length(ecstats.template_render('"{{#l}}{{t}}{{/l}}"', jsonb_build_object('t', repeat('x', 1024),
              'l', (SELECT jsonb_agg(g) FROM generate_series(1, 1024) g))) #>> '{}');
SELECT ecstats.template_render('"{{#l}}{{t}}{{/l}}!"', jsonb_build_object('t', repeat('x', 1024),
              'l', (SELECT jsonb_agg(g) FROM generate_series(1, 1024) g)));
\echo :LAST_ERROR_SQLSTATE
SELECT ecstats.template_render(to_jsonb(repeat('{{#l}}', 8) || repeat('{{/l}}', 8)), jsonb_build_object('l',
              (SELECT jsonb_agg(g) FROM generate_series(1, 10) g)));
\echo :LAST_ERROR_SQLSTATE

-- one call site, templates that change, in and out of its cache
SELECT string_agg(ecstats.template_render(jsonb_build_object('t', t), '{"a": 1, "b": 2}') ->> 't', ' ' ORDER BY n)
FROM unnest(ARRAY['{{a}}', '{{a}}', '{{b}}', 'x', '{{a}}{{b}}', '{{a}}{{b}}', '{{a}}']) WITH ORDINALITY AS u (t, n);
SELECT ecstats.template_check('{"a": ["{{x}}", "{{#y}}{{.}}{{/y}}"], "conditions": []}') IS NOT NULL AS passes;
SELECT count(*) FROM generate_series(1, 3) g WHERE ecstats_render('"{{g}}"', jsonb_build_object('g', g)) = to_jsonb(g::text);

-- deep documents
SELECT ecstats.template_render((repeat('[', 500) || '"{{x}}"' || repeat(']', 500))::jsonb, '{"x": 1}')
       = (repeat('[', 500) || '"1"' || repeat(']', 500))::jsonb AS deep;

-- an empty text is itself, not its neighbour
SELECT ecstats_render('{"a": "", "b": "{{x}}"}', '{"x": "y"}'), ecstats_render('["", "{{x}}", "", ["", "{{x}}"]]', '{"x": "y"}');
-- work is bounded, not only output
SELECT ecstats_render(to_jsonb(repeat('{{x|truncate:1}}', 200)), jsonb_build_object('x', repeat('x', 1000000)));
