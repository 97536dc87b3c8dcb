-- name: cohorts
-- What is true of the jobs that were asked for since $1: by hour of the request (from the epoch) and status.
SELECT floor(extract(epoch FROM created_at) / 3600)::bigint AS hour, status, count(*) AS jobs,
       coalesce(sum(cost_nanousd), 0)::bigint AS cost_nanousd
  FROM blog_generations WHERE created_at >= $1
 GROUP BY hour, status;
