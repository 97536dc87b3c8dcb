-- name: cohorts
-- Returns the jobs requested since $1 and their cost, by hour of the request (from the epoch) and
-- status.
SELECT floor(extract(epoch FROM created_at) / 3600)::bigint AS hour, status, count(*) AS jobs,
       coalesce(sum(cost_nanousd), 0)::bigint AS cost_nanousd
  FROM blog_generations WHERE created_at >= $1
 GROUP BY hour, status;
