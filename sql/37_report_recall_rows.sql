-- sql/37_report_recall_rows.sql
-- The recall reports that ship, in Chinese and in English: who was highly active and went silent. Made as the daily
-- ones are (37_report_rows.sql); the audience is the report's, so that another tag needs no other template.

INSERT INTO ecstats.templates (name, version, note, body)
SELECT 'recall_cn', 1, t.note, jsonb_build_object('type', 'report.recall', 'title', t.title, 'text', t.text, 'markdown', t.markdown)
  FROM (SELECT ecstats.native_text('shipped: 召回周报') AS note,
	ecstats.native_text('{{day_cn}}召回周报 待召回{{audience.user_count | int}}人 近7天新增{{audience.new_count | int}}人') AS title,
	ecstats.native_text('截至{{day_cn}}({{weekday_cn}}):待召回 {{audience.user_count | int}} 人,占全部用户 {{audience.share | percent}},'
		'近7天新增 {{audience.new_count | int}} 人;较前一日等级上升 {{up | int}} 人,下降 {{down | int}} 人;'
		'活跃用户 {{active_users | int}} 人,高活跃 {{levels_by.high.user_count | int}} 人。') AS text,
	replace(ecstats.native_text(replace(btrim($md$
**{{day_cn}}({{weekday_cn}})召回周报**
> 待召回 **{{audience.user_count | int}}** 人,占全部用户 {{audience.share | percent}}
> 近7天新增 {{audience.new_count | int}} 人{{#audience.week}} 离开 {{left_count | int}} 人{{#change_text}} 较一周前 {{change_text}} 人{{/change_text}}{{/audience.week}}

**活跃等级** {{#levels}}{{^first}} <dot> {{/first}}{{level_cn}} {{user_count | int}} 人({{change_text}}){{/levels}}
**较前一日** 上升 {{up | int}} 人,下降 {{down | int}} 人{{#has_movements}}:{{#movements}}{{^first}} <dot> {{/first}}{{from_cn}}转{{to_cn}} {{user_count | int}} 人{{/movements}}{{/has_movements}}
{{#cohorts.d7.rate}}
**新客留存** 次日 {{cohorts.d1.rate | percent}} 7日 {{cohorts.d7.rate | percent}} 30日 {{cohorts.d30.rate | percent}}
{{/cohorts.d7.rate}}
{{#audience.has_sample}}

**优先联系**(按累计支付金额)
{{#audience.sample}}
{{rank}}. {{label | truncate:24}} 沉默 {{days_silent | int}} 天,支付 {{paid_amount | money}},{{order_count | int}} 单
{{/audience.sample}}
{{#audience.has_more}}
另有 {{audience.sample_left | int}} 人未列出
{{/audience.has_more}}
{{/audience.has_sample}}

统计口径:人群 {{audience.tag}};共 {{users | int}} 名用户;{{currency}};等级括号内为较前一日人数变化
$md$, E'\n'), E'\n', E'  \n')), '<dot>', coalesce(ecstats.native_text('·'), ecstats.native_text('・'), '|')) AS markdown) t
 WHERE num_nulls(t.note, t.title, t.text, t.markdown) = 0;

INSERT INTO ecstats.templates (name, version, note, body)
VALUES ('recall_en', 1, 'shipped: recall report in English', jsonb_build_object(
	'type', 'report.recall',
	'title', 'Recall report {{day}}: {{audience.user_count | int}} users to win back, {{audience.new_count | int}} new in 7 days',
	'text', btrim($txt$
Recall report, {{weekday}} {{day}}
To win back {{audience.user_count | int}} users ({{audience.share | percent}} of {{users | int}}), {{audience.new_count | int}} new in the last 7 days
Active users {{active_users | int}}, of them highly active {{levels_by.high.user_count | int}}
Since the day before {{up | int}} moved up, {{down | int}} moved down
$txt$, E'\n'),
	'markdown', replace(replace(btrim($md$
**Recall report, {{weekday}} {{day}}**
> **{{audience.user_count | int}}** users to win back, {{audience.share | percent}} of {{users | int}}
> {{audience.new_count | int}} new in the last 7 days{{#audience.week}}, {{left_count | int}} left{{#change_text}}, {{change_text}} on the week before{{/change_text}}{{/audience.week}}

**Levels** {{#levels}}{{^first}} <dot> {{/first}}{{level}} {{user_count | int}} ({{change_text}}){{/levels}}
**Since the day before** {{up | int}} up, {{down | int}} down{{#has_movements}}: {{#movements}}{{^first}} <dot> {{/first}}{{from}} to {{to}} {{user_count | int}}{{/movements}}{{/has_movements}}
{{#cohorts.d7.rate}}
**Retention of new users** day 1 {{cohorts.d1.rate | percent}}, day 7 {{cohorts.d7.rate | percent}}, day 30 {{cohorts.d30.rate | percent}}
{{/cohorts.d7.rate}}
{{#audience.has_sample}}

**First to call** (by amount paid in all)
{{#audience.sample}}
{{rank}}. {{label | truncate:24}}: silent for {{days_silent | int}} days, paid {{paid_amount | money}} in {{order_count | int}} orders
{{/audience.sample}}
{{#audience.has_more}}
and {{audience.sample_left | int}} more
{{/audience.has_more}}
{{/audience.has_sample}}

Audience {{audience.tag}}; amounts in {{currency}}; in brackets the change of users on the day before
$md$, E'\n'), E'\n', E'  \n'), '<dot>', coalesce(ecstats.native_text('·'), ecstats.native_text('・'), '|'))));

INSERT INTO ecstats.reports (name, dataset, audience, template)
VALUES ('recall', 'activity', 'high_active_silent', coalesce((SELECT t.name FROM ecstats.templates t WHERE t.name = 'recall_cn'), 'recall_en')),
	   ('recall_en', 'activity', 'high_active_silent', 'recall_en');
