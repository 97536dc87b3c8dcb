-- name: before
-- Returns the time $1 days ago, by the database's clock.
SELECT now() - make_interval(days => $1);

-- name: count
-- Returns the number of jobs that `remove` would delete in all, and the number of their stores.
SELECT count(*) AS jobs, count(DISTINCT instance_id) AS stores
  FROM blog_generations AS job
 WHERE finished_at < $1 AND status = ANY ($2::text[]) AND charged_nanousd = cost_nanousd
   AND NOT EXISTS (SELECT 1 FROM webhook_deliveries WHERE job_id = job.id AND state = 'WAITING');

-- name: remove
-- Deletes the next $3 jobs that ended before $1, the oldest first, with their steps, posts and
-- deliveries, and returns their number. Leaves jobs that a retry has locked, jobs whose cost is
-- not charged yet, and jobs with a delivery that still waits.
WITH old AS (
    SELECT id FROM blog_generations AS job
     WHERE finished_at < $1 AND status = ANY ($2::text[]) AND charged_nanousd = cost_nanousd
       AND NOT EXISTS (
           SELECT 1 FROM webhook_deliveries WHERE job_id = job.id AND state = 'WAITING')
     ORDER BY finished_at LIMIT $3 FOR UPDATE SKIP LOCKED
), removed AS (
    DELETE FROM blog_generations WHERE id IN (SELECT id FROM old) RETURNING 1
)
SELECT count(*) FROM removed;
