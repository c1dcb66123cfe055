-- sql/37_report_rows.sql
-- What ships: a Chinese and an English daily report. They are neutral messages (title, markdown,
-- text), so the same template suits every kind of channel. Lines end in two blanks, the line break
-- that every chat's Markdown knows; they are put in by replace(), not typed. Change a text by
-- inserting a new version, not here.

-- The Chinese one ships where the database's encoding can hold it.
INSERT INTO ecstats.templates (name, version, note, body)
SELECT 'daily_cn', 1, t.note, jsonb_build_object('type', 'report.daily', 'title', t.title, 'text', t.text, 'markdown', t.markdown)
  FROM (SELECT ecstats.native_text('shipped: 经营日报') AS note,
	ecstats.native_text('{{day_cn}}日报 成交额{{gmv | cn}} 环比{{dod.gmv | signed_percent:持平}}') AS title,
	ecstats.native_text('{{day_cn}}({{weekday_cn}})日报:成交额 {{gmv | cn}},环比 {{dod.gmv | signed_percent:持平}},'
		'周同比 {{wow.gmv | signed_percent:持平}};订单 {{order_count | int}} 单,支付 {{payer_count | int}} 人,'
		'客单价 {{amount_per_buyer | money}},访客 {{uv | int}},转化率 {{conversion_rate | percent:2}},'
		'退款 {{refund_amount | cn}}。{{^complete}}数据尚未收齐,以更正为准。{{/complete}}') AS text,
	replace(ecstats.native_text(replace(btrim($md$
**{{day_cn}}({{weekday_cn}})经营日报**
{{#restated}}
> **更正**(第 {{revision}} 版)
{{#columns.gmv}}
> 成交额由 {{old | money}} 更正为 {{new | money}}
{{/columns.gmv}}
{{#columns.paid_amount}}
> 支付金额由 {{old | money}} 更正为 {{new | money}}
{{/columns.paid_amount}}
{{#columns.refund_amount}}
> 退款由 {{old | money}} 更正为 {{new | money}}
{{/columns.refund_amount}}
{{#columns.uv}}
> 访客由 {{old | int}} 更正为 {{new | int}}
{{/columns.uv}}
{{/restated}}
{{^complete}}
> **数据尚未收齐**,以更正为准
{{/complete}}
{{^reconciles}}
> **渠道合计与成交额不符**,请先核对再引用
{{/reconciles}}
> 成交额 **{{gmv | cn}}** 环比 {{dod.gmv | signed_percent:持平}} 周同比 {{wow.gmv | signed_percent:持平}}
> 订单 {{order_count | int}} 单 支付 {{payer_count | int}} 人 支付金额 {{paid_amount | cn}}
> 客单价 {{amount_per_buyer | money}} 笔单价 {{aov | money}}
> 访客 {{uv | int}} 转化率 {{conversion_rate | percent:2}}{{#dod_points.conversion_rate_text}}(较前一日 {{dod_points.conversion_rate_text}} 百分点){{/dod_points.conversion_rate_text}}
> 退款 {{refund_amount | cn}} 退款率 {{refund_rate | percent}}
{{#targets.gmv}}

**本月累计** {{achieved | cn}} / 目标 {{value | cn}} 达成 {{rate | percent}} 时间进度 {{time_progress | percent}}({{lead_points_text}} 百分点)
{{#daily_needed}}
剩余 {{days_left}} 天,日均需 {{daily_needed | cn}}
{{/daily_needed}}
{{/targets.gmv}}
{{#has_sales}}

**商品 TOP5**
{{#top_products}}
{{#top5}}
{{rank}}. {{label | truncate:18}} {{total_revenue | cn}}({{total_sold | int}} 件)
{{/top5}}
{{/top_products}}

**渠道** {{#by_channel}}{{#top10}}{{^first}} <dot> {{/first}}{{label | truncate:10}} {{total_revenue | cn}}({{revenue_change | signed_percent:持平}}){{/top10}}{{/by_channel}}

**区域 TOP5** {{#by_region}}{{#top5}}{{^first}} <dot> {{/first}}{{label | truncate:10}} {{total_revenue | cn}}({{share | percent}}){{/top5}}{{/by_region}}
{{/has_sales}}

统计口径:下单成交额,未扣退款;{{currency}};渠道括号内为环比,区域括号内为占比
$md$, E'\n'), E'\n', E'  \n')), '<dot>', coalesce(ecstats.native_text('·'), ecstats.native_text('・'), '|')) AS markdown) t
 WHERE num_nulls(t.note, t.title, t.text, t.markdown) = 0;

INSERT INTO ecstats.templates (name, version, note, body)
VALUES ('daily_en', 1, 'shipped: daily report in English', jsonb_build_object(
	'type', 'report.daily',
	'title', 'Daily report {{day}}: GMV {{gmv | money}} {{currency}}, {{dod.gmv | signed_percent:unchanged}} on the day before',
	'text', btrim($txt$
Daily report, {{weekday}} {{day}}
{{#restated}}
Corrected, revision {{revision}}.
{{/restated}}
{{^complete}}
Not complete yet: late data will be reported as a correction.
{{/complete}}
GMV {{gmv | money}} {{currency}} (day before {{dod.gmv | signed_percent:unchanged}}, week before {{wow.gmv | signed_percent:unchanged}})
Orders {{order_count | int}}, buyers {{buyer_count | int}}, per order {{aov | money}}
Paid {{paid_amount | money}} by {{payer_count | int}} customers, refunds {{refund_amount | money}} ({{refund_rate | percent}})
Visitors {{uv | int}}, conversion {{conversion_rate | percent:2}}
{{#top_products}}
{{#top3}}
{{rank}}. {{label | truncate:40}}: {{total_revenue | money}} ({{total_sold | int}} pcs)
{{/top3}}
{{/top_products}}
$txt$, E'\n'),
	'markdown', replace(replace(btrim($md$
**Daily report, {{weekday}} {{day}}**
{{#restated}}
> **Corrected** (revision {{revision}}){{#columns.gmv}}: GMV {{old | money}} is now {{new | money}}{{/columns.gmv}}
{{/restated}}
{{^complete}}
> **Not complete yet**: late data will be reported as a correction
{{/complete}}
{{^reconciles}}
> **Channels do not add up to GMV**: check before use
{{/reconciles}}
> GMV **{{gmv | money}}** {{currency}}, {{dod.gmv | signed_percent:unchanged}} on the day before, {{wow.gmv | signed_percent:unchanged}} on the week before
> Orders {{order_count | int}}, buyers {{buyer_count | int}}, per order {{aov | money}}
> Paid {{paid_amount | money}} by {{payer_count | int}} customers
> Visitors {{uv | int}}, conversion {{conversion_rate | percent:2}}{{#dod_points.conversion_rate_text}} ({{dod_points.conversion_rate_text}} points){{/dod_points.conversion_rate_text}}
> Refunds {{refund_amount | money}}, {{refund_rate | percent}} of what was paid
{{#targets.gmv}}

**Month to date** {{achieved | money}} of {{value | money}}: {{rate | percent}} with {{time_progress | percent}} of the time gone
{{/targets.gmv}}
{{#has_sales}}

**Top 5 products**
{{#top_products}}
{{#top5}}
{{rank}}. {{label | truncate:32}} {{total_revenue | money}} ({{total_sold | int}} pcs)
{{/top5}}
{{/top_products}}

**Channels** {{#by_channel}}{{#top10}}{{^first}} <dot> {{/first}}{{label | truncate:16}} {{total_revenue | money}} ({{revenue_change | signed_percent:unchanged}}){{/top10}}{{/by_channel}}

**Top 5 regions** {{#by_region}}{{#top5}}{{^first}} <dot> {{/first}}{{label | truncate:16}} {{total_revenue | money}} ({{share | percent}}){{/top5}}{{/by_region}}
{{/has_sales}}
$md$, E'\n'), E'\n', E'  \n'), '<dot>', coalesce(ecstats.native_text('·'), ecstats.native_text('・'), '|'))));

INSERT INTO ecstats.reports (name, template)
VALUES ('daily', coalesce((SELECT t.name FROM ecstats.templates t WHERE t.name = 'daily_cn'), 'daily_en')), ('daily_en', 'daily_en');
