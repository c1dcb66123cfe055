-- What holds between the days and a table of periods, %(table)s by the %(unit)s: a row of text for each that does not.
WITH parts AS (
	SELECT date_trunc('%(unit)s', k.day)::date AS day, sum(k.gmv) AS gmv, sum(k.event_count) AS events, sum(k.new_user_count) AS new_users, max(k.uv) AS uv,
		   sum(k.uv) AS most_uv, bool_and(k.complete) AS complete
	  FROM ecstats.daily_kpi k GROUP BY 1
)
SELECT format('%(table)s %%s: gmv, events and new users %%s, its days make %%s', coalesce(p.day, d.day), (p.gmv, p.event_count, p.new_user_count), (d.gmv, d.events, d.new_users))
  FROM ecstats.%(table)s p FULL JOIN parts d ON d.day = p.day
 WHERE (p.gmv, p.event_count, p.new_user_count) IS DISTINCT FROM (d.gmv, d.events::bigint, d.new_users::bigint)
UNION ALL
SELECT format('%(table)s %%s: %%s users, a day of it has %%s, all together %%s', p.day, p.uv, d.uv, d.most_uv)
  FROM ecstats.%(table)s p JOIN parts d ON d.day = p.day WHERE NOT p.uv BETWEEN d.uv AND d.most_uv
UNION ALL
SELECT format('%(table)s %%s: revision %%s, closed at %%s, complete %%s, its days %%s', p.day, p.revision, p.closed_at, p.complete, d.complete)
  FROM ecstats.%(table)s p JOIN parts d ON d.day = p.day
 WHERE (p.revision = 0) <> (p.closed_at IS NULL) OR p.complete <> (p.revision > 0 AND d.complete)
