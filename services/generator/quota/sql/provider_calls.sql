-- name: spent_since
-- Sums the calls begun in these partitions ($1), each since its own time ($2).
SELECT call.partition, call.provider, sum(call.requests)::float8 AS requests,
       sum(call.tokens)::float8 AS tokens
  FROM unnest($1::int[], $2::timestamptz[]) AS saved (partition, at)
  JOIN provider_calls AS call ON call.partition = saved.partition AND call.started_at > saved.at
 GROUP BY call.partition, call.provider;

-- name: delete_old_calls
-- Deletes records of calls that every checkpoint has included long ago.
DELETE FROM provider_calls WHERE started_at < now() - interval '10 minutes';
