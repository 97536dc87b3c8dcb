-- name: job
-- One job of one store, with its post.
SELECT job.id, job.instance_id, job.status, job.source_type, job.source_id, job.created_at, job.started_at,
       job.finished_at, job.attempt, job.not_before, job.input_tokens, job.output_tokens, job.images, job.cost_nanousd,
       job.error_code, job.error, job.forwarded_at,
       post.title, post.slug, post.meta_description, post.html, post.image_url,
       outlook.reason, outlook.limited_by, outlook.queued, outlook.ahead, outlook.first_at, outlook.last_at,
       CASE WHEN job.status = 'PENDING' AND job.forwarded_at IS NULL THEN (
           SELECT count(*) FROM blog_generations AS other
            WHERE other.instance_id = job.instance_id AND other.status = 'PENDING' AND other.forwarded_at IS NULL
              AND (other.not_before IS NULL OR other.not_before <= now())
              AND (-other.priority, other.created_at, other.id) < (-job.priority, job.created_at, job.id)
       ) END AS before_it
  FROM blog_generations AS job
       LEFT JOIN blog_posts AS post ON post.job_id = job.id
       LEFT JOIN store_outlooks AS outlook ON outlook.instance_id = job.instance_id
 WHERE job.id = $1 AND job.instance_id = $2;

-- name: steps
-- The steps of a job in the order in which they began.
SELECT step, state, attempt, call_started_at, finished_at, input_tokens, output_tokens, images, cost_nanousd, in_doubt
  FROM blog_steps WHERE job_id = $1 ORDER BY call_started_at, step;

-- name: list
-- A page of a store's jobs, the newest first, after a position ($3, $4), of one status or of any.
WITH waiting AS (
    SELECT id, row_number() OVER (ORDER BY -priority, created_at, id) - 1 AS before_it
      FROM blog_generations
     WHERE instance_id = $1 AND status = 'PENDING' AND forwarded_at IS NULL
       AND (not_before IS NULL OR not_before <= now())
)
SELECT job.id, job.instance_id, job.status, job.source_type, job.source_id, job.created_at, job.started_at,
       job.finished_at, job.attempt, job.not_before, job.input_tokens, job.output_tokens, job.images, job.cost_nanousd,
       job.error_code, job.error, job.forwarded_at, waiting.before_it,
       outlook.reason, outlook.limited_by, outlook.queued, outlook.first_at, outlook.last_at
  FROM blog_generations AS job
       LEFT JOIN waiting USING (id)
       LEFT JOIN store_outlooks AS outlook ON outlook.instance_id = job.instance_id
 WHERE job.instance_id = $1 AND ($2::text IS NULL OR job.status = $2)
   AND ($3::timestamptz IS NULL OR (job.created_at, job.id) < ($3, $4::uuid))
 ORDER BY job.created_at DESC, job.id DESC LIMIT $5;
